"""Promises of mae_vlm.objectives.completion and its parts. Letters as there."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from captioned import a_batch, a_text, an_image, stirred
from torch import nn

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.objectives.completion import Completion
from mae_vlm.objectives.parts.confident_first import confident_first
from mae_vlm.objectives.parts.patch_codes import PatchCodes
from mae_vlm.types import Batch

SMALL = {"width": 16, "depth": 1, "heads": 2, "codes": 12, "settle": 3}
TOLD = [("a red square",), ("two green stars and a ring",), ("a cross",), ("a blue circle",)]


def a_pair(**options) -> tuple[Towers, Completion]:
    """Float64 towers and objective whose codebook has seen a step."""
    torch.manual_seed(0)
    house = stirred(Towers(an_image(), a_text()).double())
    completion = stirred(Completion(house, **SMALL | options).double())
    batch = a_batch(TOLD)
    completion(Features(house, batch), batch)
    completion.after_step()
    return house.eval(), completion.eval()


# -- the codebook


def patches(count: int, seed: int = 0) -> torch.Tensor:
    """Patches in 6 heaps of very different size, each heap close around its middle: ``[count, 16, 8]``."""
    draw = torch.Generator().manual_seed(seed)
    middles = 4 * torch.randn(6, 8, generator=torch.Generator().manual_seed(9))
    sizes = torch.tensor([0.5, 0.3, 0.1, 0.05, 0.03, 0.02])
    which = torch.multinomial(sizes, count * 16, replacement=True, generator=draw).view(count, 16)
    return middles[which] + 0.05 * torch.randn(count, 16, 8, generator=draw)


def learned(steps: int = 40, **options) -> PatchCodes:
    codes = PatchCodes(**{"count": 8, "pixels": 8, "settle": 1000} | options)
    for number in range(steps):
        some = patches(32, number)
        codes.note(some, codes.nearest(some), torch.arange(32) + 100 * number)
        codes.learn()
    return codes


def test_the_codebook_tells_patches_apart_better_than_as_many_of_the_patches_would():
    codes, fresh = learned(count=24), patches(64, 777)
    error = (codes.codes_KP[codes.nearest(fresh)] - fresh).square().mean()
    drawn = patches(2)[:, :12].flatten(0, 1)
    assert error < 0.05 * fresh.var() and error < 0.5 * torch.cdist(fresh.flatten(0, 1), drawn).min(1).values.square().mean() / 8
    assert codes.nearest(patches(200, 5)).unique().numel() == 24  # none stands idle


def test_a_code_is_the_mean_of_what_is_nearest_to_it():
    codes, some = learned(1, count=4), patches(32)
    ids = codes.nearest(some)
    gap_BNK = (some[:, :, None] - codes.codes_KP).square().sum(-1)
    assert torch.equal(ids, gap_BNK.argmin(-1))
    fixed = PatchCodes(4, 8, settle=9, decay=0.0)
    fixed.load_state_dict(codes.state_dict())
    fixed.note(some, ids, torch.arange(32))
    fixed.learn()
    used = [code for code in range(4) if (ids == code).sum() > 0.03 * ids.numel() / 4]
    assert len(used) >= 3
    for code in used:
        torch.testing.assert_close(fixed.codes_KP[code], some[ids == code].mean(0), rtol=0, atol=1e-5)


def test_the_codebook_stands_still_once_it_is_settled_and_goes_on_where_a_checkpoint_left_it():
    codes = learned(5, settle=5)
    before = codes.codes_KP.clone()
    other = PatchCodes(8, 8, settle=5)
    other.load_state_dict(codes.state_dict())
    for part in (codes, other):
        part.note(patches(32, 50), part.nearest(patches(32, 50)), torch.arange(32))
        part.learn()
        assert torch.equal(part.codes_KP, before)


def test_a_batch_that_is_looked_at_twice_in_a_step_counts_once():
    one, twice = learned(3), learned(3)
    some, keys = patches(32, 60), torch.arange(32)
    for part, times in ((one, 1), (twice, 2)):
        for _ in range(times):
            part.note(some, part.nearest(some), keys)
        part.learn()
    assert torch.equal(one.uses_K, twice.uses_K) and torch.equal(one.codes_KP, twice.codes_KP)


@pytest.mark.parametrize("options", [{"count": 1}, {"settle": 0}, {"decay": 1.0}], ids=str)
def test_a_codebook_that_cannot_learn_is_refused(options):
    name, value = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"{'codes' if name == 'count' else name} {value}"):
        PatchCodes(**{"count": 4, "pixels": 8, "settle": 5} | options)


# -- the sampler


def test_each_step_keeps_what_is_surest_on_a_cosine_and_leaves_the_visible_alone():
    truth_BN, left = torch.arange(64).expand(2, -1), []
    sure_BN = torch.linspace(3, 30, 64).expand(2, -1)

    def predict(ids_BN, hidden_BN):
        left.append(hidden_BN.clone())
        assert (ids_BN[~hidden_BN & start_BN] == truth_BN[~hidden_BN & start_BN]).all()
        return nn.functional.one_hot(truth_BN, 70) * 30.0 + nn.functional.one_hot(truth_BN + 1, 70) * (30.0 - sure_BN[..., None])

    start_BN = torch.ones(2, 64, dtype=torch.bool)
    start_BN[1, :24] = False
    given_BN = torch.full((2, 64), 69)
    ids_BN = confident_first(predict, given_BN, start_BN, torch.tensor([1, 2]), 4, 0.0)
    assert (ids_BN[1, :24] == 69).all() and (ids_BN[start_BN] == truth_BN[start_BN]).float().mean() > 0.95
    assert [int(one[0].sum()) for one in left] == [64, int(64 * 0.9239), int(64 * 0.7071), int(64 * 0.3827)]
    assert [int(one[1].sum()) for one in left] == [40, int(40 * 0.9239), int(40 * 0.7071), int(40 * 0.3827)]
    assert left[3][0].nonzero().float().mean() < 20  # the surest, at the end, are there first


def test_the_same_keys_draw_the_same_codes_and_others_others():
    def predict(ids_BN, hidden_BN):
        return torch.zeros(*ids_BN.shape, 50)

    hidden_BN, nothing = torch.ones(2, 64, dtype=torch.bool), torch.zeros(2, 64, dtype=torch.int64)
    one, same, other = (confident_first(predict, nothing, hidden_BN, torch.tensor([key, 5]), 3, 1.0) for key in (1, 1, 2))
    assert torch.equal(one, same) and torch.equal(one[1], other[1]) and (one[0] != other[0]).float().mean() > 0.9
    assert one.float().mean() == pytest.approx(24.5, abs=4)


# -- the objective


def test_up_to_all_patches_are_hidden_by_keyed_chance():
    house, completion = a_pair()
    batch = replace(a_batch(TOLD), keys_B=torch.arange(1000))
    hidden_BN = completion._hidden(Features(house, batch))
    share_B = hidden_BN.double().mean(1)
    assert share_B.min() == 1 / 16 and share_B.max() == 1
    assert share_B.mean().item() == pytest.approx(2 / torch.pi + 0.5 / 16, abs=0.03)  # the cosine's mean, rounded up to whole patches
    again = completion._hidden(Features(house, replace(batch, keys_B=batch.keys_B[:7])))
    assert torch.equal(again, hidden_BN[:7])


def logits(house, completion, batch, hidden_BN) -> torch.Tensor:
    features = Features(house, batch)
    return completion._logits(features, features.patches_BNP, hidden_BN, features.text, features.words.has_B)


def test_nothing_of_a_hidden_patch_is_looked_at_and_all_of_a_visible_one():
    house, completion = a_pair()
    batch = a_batch(TOLD)
    hidden_BN = completion.middle(batch)
    changed = replace(batch, images_BCHW=batch.images_BCHW.clone())
    changed.images_BCHW[..., 8:24, 8:24] = 0
    one, two = (logits(house, completion, some, hidden_BN) for some in (batch, changed))
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    changed.images_BCHW[..., 0, 0] += 100
    assert (logits(house, completion, changed, hidden_BN) - one).abs().max() > 1e-6


def test_words_change_what_is_told_and_padding_does_not():
    house, completion = a_pair()
    hidden_BN = completion.middle(a_batch(TOLD))
    one = logits(house, completion, a_batch(TOLD), hidden_BN)
    other = logits(house, completion, a_batch([("a yellow cross",), *TOLD[1:]]), hidden_BN)
    assert (other[0] - one[0]).abs().max() > 1e-6
    torch.testing.assert_close(other[1:], one[1:], rtol=0, atol=1e-12)
    long = a_batch([*TOLD[:3], ("a small red square above a large blue circle on the left side of a yellow cross in the middle",)])
    padded = logits(house, completion, long, hidden_BN)
    torch.testing.assert_close(padded[:3], one[:3], rtol=0, atol=1e-12)


def test_a_kept_back_caption_is_as_none():
    house, completion = a_pair()
    hidden_BN = completion.middle(a_batch(TOLD))
    features = Features(house, a_batch(TOLD))
    silent = completion._logits(features, features.patches_BNP, hidden_BN, features.text, features.words.has_B & False)
    torch.testing.assert_close(silent, logits(house, completion, a_batch([()] * 4), hidden_BN), rtol=0, atol=1e-12)


def test_validation_counts_real_pictures_alone_and_tells_of_other_words():
    house, completion = a_pair()
    batch = a_batch([*TOLD, *TOLD[:2]])
    padded = replace(batch, real_B=torch.tensor([True] * 4 + [False] * 2))
    with torch.no_grad():
        alone, together = completion(Features(house, batch[:4]), batch[:4]), completion(Features(house, padded), padded)
    assert alone.logs.keys() == {"cross_entropy", "accuracy", "other_words"}
    for term in alone.logs:
        torch.testing.assert_close(together.logs[term], alone.logs[term])
    assert together.value == together.logs["cross_entropy"]
    counts = completion.counts(Features(house, padded))
    assert counts["cross_entropy"] == together.terms["cross_entropy"].count


def test_a_painted_picture_keeps_its_visible_pixels_and_is_a_mosaic_of_codes_elsewhere():
    house, completion = a_pair()
    batch = a_batch(TOLD)
    hidden_BN = completion.middle(batch)
    painted = completion.complete(Features(house, batch), hidden_BN)
    original = batch.images_BCHW / 255
    outside = torch.ones(32, 32, dtype=torch.bool)
    outside[8:24, 8:24] = False
    torch.testing.assert_close(painted[..., outside], original[..., outside].double(), rtol=0, atol=1e-6)
    assert (painted[..., ~outside] - original[..., ~outside]).abs().mean() > 0.02
    codes = completion._pictures(completion.codebook.codes_KP.repeat(2, 1)[:16][None]).clamp(0, 1)  # 16 patches make a picture
    tiles = house.image.patchify(painted)[hidden_BN]
    assert torch.cdist(tiles, house.image.patchify(codes)[0]).min(1).values.max() < 1e-6


def test_without_guidance_words_do_not_matter_and_with_it_they_do():
    house, completion = a_pair()
    everything = torch.ones(4, 16, dtype=torch.bool)
    batches = a_batch(TOLD), a_batch([("a yellow cross",)] * 4)
    deaf = [completion.complete(Features(house, batch), everything, guidance=0.0) for batch in batches]
    assert torch.equal(*deaf)
    heard = [completion.complete(Features(house, batch), everything, guidance=20.0, temperature=0.0) for batch in batches]
    assert not torch.equal(*heard)


def test_pictures_show_a_row_for_each_picture_with_its_words():
    house, completion = a_pair()
    batch = a_batch([*TOLD[:2], ()])
    sheet = completion.pictures(Features(house, batch), batch)["completion"]
    assert sheet.shape == (3, 3 * (128 + 4), 5 * (128 + 4)) and sheet.min() >= 0 and sheet.max() <= 1
    rows = sheet.view(3, 3, 132, 5, 132).permute(1, 3, 0, 2, 4)
    torch.testing.assert_close(rows[:, 0, :, 2:-2:4, 2:-2:4], (batch.images_BCHW / 255).float(), rtol=0, atol=1e-5)
    assert (rows[:, 4] < 0.5).any((1, 2, 3)).all()  # words are black


def test_it_learns_to_paint_what_words_say():
    """Pictures of one colour, which the caption names: painted from words alone, they have it."""
    torch.manual_seed(0)
    house = Towers(an_image(depth=1), a_text())
    completion = Completion(house, **SMALL | {"codes": 4, "settle": 10, "silent": 0.2})
    colours, weights = torch.tensor([[200, 20, 20], [20, 20, 200]], dtype=torch.uint8), [*house.parameters(), *completion.parameters()]
    optimizer = torch.optim.AdamW([weight for weight in weights if weight.requires_grad], 5e-3)
    told = ("a red square", "a blue circle")

    def some(which: torch.Tensor, number: int) -> Batch:
        images = colours[which][:, :, None, None].expand(-1, -1, 32, 32).contiguous()
        made = a_batch([(told[one],) for one in which.tolist()])
        return replace(made, images_BCHW=images, keys_B=torch.arange(len(which)) + 100 * number)

    for number in range(40):
        batch = some(torch.arange(8) % 2, number)
        optimizer.zero_grad()
        completion(Features(house, batch), batch).value.backward()
        optimizer.step()
        completion.after_step()
    house.eval(), completion.eval()
    batch = some(torch.arange(8) % 2, 999)
    painted = completion.complete(
        Features(house, replace(batch, images_BCHW=torch.zeros_like(batch.images_BCHW))), torch.ones(8, 16).bool()
    )
    gap = painted.mean((2, 3))[:, 0] - painted.mean((2, 3))[:, 2]
    assert (gap[::2] > 0.5).all() and (gap[1::2] < -0.5).all(), gap


@pytest.mark.parametrize(
    "options, message",
    [
        ({"silent": 1.0}, "silent 1.0 given, allowed is a share from 0 to below 1"),
        ({"guidance": -1.0}, "guidance -1.0, steps 12 given"),
        ({"steps": 0}, "guidance 2.0, steps 0 given"),
        ({"depth": 0}, "decoder width 16, depth 0, heads 2 given"),
        ({"codes": 1}, "codes 1, settle 3"),
    ],
    ids=str,
)
def test_mistakes_are_told_with_the_numbers(options, message):
    with pytest.raises(ValueError, match=message):
        Completion(Towers(an_image(), a_text()), **SMALL | options)


def test_it_needs_a_text_tower_and_trains_any_image_tower_that_sees_whole_pictures():
    with pytest.raises(ValueError, match=r"this needs a text tower; set model\.text"):
        Completion(Towers(an_image()), **SMALL)
    assert "masked" not in partial(Completion, **SMALL)(Towers(an_image(), a_text())).views
