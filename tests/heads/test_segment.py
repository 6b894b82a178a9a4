"""Promises of mae_vlm.heads.segment and what it is made of."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from data.pictures_on_disk import SHARED
from PIL import Image
from torch import nn
from torch.nn import functional

from mae_vlm.callbacks.predicted_maps import write_map
from mae_vlm.data.framing import Fit
from mae_vlm.data.module import Data
from mae_vlm.data.summary import Summary
from mae_vlm.data.targets import nearest
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.heads import segment
from mae_vlm.heads.parts.palette import palette
from mae_vlm.heads.parts.upernet import UperNet
from mae_vlm.heads.parts.windows import through_windows
from mae_vlm.heads.segment import Segment
from mae_vlm.types import Answer, Batch, Frame, Target

SIZES = {"width": 32, "depth": 3, "heads": 4, "patch": 8, "image_size": (16, 24)}
PYRAMID = {"decoder": partial(UperNet, channels=8), "auxiliary": 0.4}
CAMVID = SHARED / "camvid"


def a_head(count: int | list[str] = 5, sizes: dict | None = None, **more) -> tuple[Towers, Segment]:
    torch.manual_seed(0)
    towers = Towers(Vit(**SIZES | (sizes or {})))
    head = Segment(towers, classes=count, **more)
    nn.init.normal_(head.decoder.linear.weight)
    return towers, head


def a_batch(count: int = 3, size: tuple[int, int] = (16, 24), classes: int = 5) -> Batch:
    """Pictures whose left quarter is unknown."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=draw)
    maps = torch.randint(0, classes, (count, *size), generator=draw).to(torch.int16)
    maps[..., : size[1] // 4] = -1
    frame = Frame(*size, 0, 0, *size, *size)
    ids = [f"picture {number}" for number in range(count)]
    known = [Target(frame, semantic=one) for one in maps]
    return Batch(images, torch.arange(count), torch.ones(count, dtype=torch.bool), torch.full((count,), -1), ids, targets=known)


def true_maps(batch: Batch) -> torch.Tensor:
    return torch.stack([target.semantic for target in batch.targets]).long()


# -- loss


def test_the_loss_is_the_cross_entropy_of_interpolated_scores_at_the_known_pixels():
    towers, head = a_head()
    batch = a_batch()
    features = Features(towers, batch)
    answer = head(features)
    normed_BND = functional.layer_norm(features.full.unnormed_BND, (32,), eps=1e-6)
    weight_LD = head.decoder.linear.weight[:, :, 0, 0]
    logits = (normed_BND @ weight_LD.T).mT.reshape(3, 5, 2, 3)
    torch.testing.assert_close(answer["logits"], logits, rtol=0, atol=1e-5)
    whole = functional.interpolate(logits, size=(16, 24), mode="bilinear", align_corners=False)
    expected = functional.cross_entropy(whole, true_maps(batch), ignore_index=-1)
    torch.testing.assert_close(head.loss(answer, batch).value, expected)
    assert head.counts(batch)["cross_entropy"] == 3 * 16 * 18


def test_pictures_that_only_fill_up_a_batch_count_zero():
    towers, head = a_head()
    batch = a_batch()
    batch.real_B[1:] = False
    found, alone = (head.loss(head(Features(towers, one)), one) for one in (batch, batch[:1]))
    torch.testing.assert_close(found.value, alone.value)
    assert found.terms["cross_entropy"].count == head.counts(batch)["cross_entropy"] == 16 * 18


@pytest.mark.parametrize("options", [{}, PYRAMID], ids=["linear", "upernet"])
def test_a_batch_without_a_known_pixel_has_a_finite_loss_and_a_gradient_for_every_weight(options):
    towers, head = a_head(**options)
    batch = a_batch()
    for target in batch.targets:
        target.semantic.fill_(-1)
    value = head.loss(head(Features(towers, batch)), batch).value
    value.backward()
    trained = [*head.parameters(), *(weight for name, weight in towers.named_parameters() if not name.startswith("image.vit.norm."))]
    assert value == 0
    assert all(weight.grad is not None and not weight.grad.any() for weight in trained if weight.requires_grad)


def test_the_auxiliary_loss_weighs_as_told_and_is_there_in_training_alone():
    towers, head = a_head(**PYRAMID)
    batch = a_batch()
    trained, evaluated = (head.train(training).loss(head(Features(towers, batch)), batch) for training in (True, False))
    assert head.train().counts(batch).keys() == trained.terms.keys() == {"cross_entropy", "auxiliary"}
    assert head.eval().counts(batch).keys() == evaluated.terms.keys() == {"cross_entropy"}
    parts = {name: term.mean() for name, term in trained.terms.items()}
    torch.testing.assert_close(trained.value, parts["cross_entropy"] + 0.4 * parts["auxiliary"])


def test_scores_of_some_pictures_at_a_time_are_those_of_all_at_once(monkeypatch):
    towers, head = a_head()
    batch, found = a_batch(), []
    answer = head(Features(towers, batch))
    for numbers in (1 << 25, 2 * 5 * 16 * 24, 1):
        monkeypatch.setattr(segment, "_NUMBERS_AT_ONCE", numbers)
        metrics = head.metrics()
        head.measure(metrics, answer, batch)
        maps = torch.stack([one.semantic for one in head.predictions(answer, batch)])
        found.append((head.loss(answer, batch).value, metrics.compute()["confusion"], maps))
    for loss, confusion, maps in found[1:]:
        torch.testing.assert_close(loss, found[0][0])
        assert torch.equal(confusion, found[0][1]) and torch.equal(maps, found[0][2])


# -- decoders


def test_upernet_has_no_norm_over_the_batch_and_a_picture_is_answered_alike_in_any_company():
    towers, head = a_head(**PYRAMID)
    head.eval()
    assert not any(isinstance(part, nn.modules.batchnorm._NormBase) for part in head.modules())
    batch = a_batch()
    torch.testing.assert_close(head(Features(towers, batch))["logits"][1:2], head(Features(towers, batch[1:2]))["logits"])


def test_upernet_answers_at_four_times_the_patches_resolution_also_on_odd_grids():
    towers, head = a_head(sizes={"image_size": (24, 40)}, **PYRAMID)
    assert head(Features(towers, a_batch(1, (24, 40))))["logits"].shape == (1, 5, 12, 20)


def test_upernet_reads_the_blocks_of_the_published_recipe():
    with torch.device("meta"):
        heads = {depth: UperNet(Towers(Vit(width=32, depth=depth, heads=4, patch=8, image_size=16)), 5, 8) for depth in (6, 12, 24)}
    assert {depth: head.taps for depth, head in heads.items()} == {6: (1, 2, 3, 5), 12: (3, 5, 7, 11), 24: (7, 11, 15, 23)}
    with pytest.raises(ValueError, match=r"taps \(1, 2\) given, UPerNet reads 4 blocks"):
        UperNet(Towers(Vit(**SIZES)), 5, 8, taps=(1, 2))


@pytest.mark.parametrize("options", [{}, {"auxiliary": 0.4}, PYRAMID], ids=["linear", "with auxiliary", "upernet"])
def test_a_batch_goes_through_the_encoder_once(options, monkeypatch):
    towers, head = a_head(**options)
    passes, block = [], towers.image.vit.blocks[0].forward
    monkeypatch.setattr(towers.image.vit.blocks[0], "forward", lambda *given, **more: passes.append(1) or block(*given, **more))
    head.train()(Features(towers, a_batch()))
    assert len(passes) == 1


# -- larger pictures


@pytest.mark.parametrize("options", [{}, PYRAMID], ids=["linear", "upernet"])
def test_one_window_is_no_window(options):
    towers, head = a_head(**options)
    features = Features(towers, a_batch())
    head.eval()
    plain = head._scores(features)
    assert torch.equal(through_windows(features, head.space, head._scores), plain)
    assert torch.equal(through_windows(features.window(0, 0), head.space, head._scores), plain)


@pytest.mark.parametrize("options", [{}, PYRAMID], ids=["linear", "upernet"])
def test_a_constant_picture_gets_one_answer_without_seams(options):
    """Where the encoder does not know the place, every patch of a constant picture is the same."""
    towers, head = a_head(**options)
    head.eval()
    nn.init.zeros_(towers.image.vit.pos_embed)
    for part in head.modules():  # a convolution sees the edge of the picture, and so of a window
        if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3):
            part.weight.data[:, :, [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0
        if isinstance(part, nn.ConvTranspose2d):
            part.weight.data[:] = part.weight.data[:, :, :1, :1]
    batch = a_batch(1, (40, 72))
    batch.images_BCHW.fill_(200)
    logits = head(Features(towers, batch))["logits"][0]
    torch.testing.assert_close(logits, logits[:, :1, :1].expand_as(logits), rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(8, 24), (16, 28)], ids=str)
def test_pictures_that_windows_cannot_cover_are_refused(size):
    towers, head = a_head()
    with pytest.raises(ValueError, match=f"pictures of {size[0]} x {size[1]} cannot be looked at through windows of 16 x 24"):
        head(Features(towers, a_batch(1, size)))


def test_larger_pictures_have_loss_metrics_predictions_and_pictures_too():
    towers, head = a_head(**PYRAMID)
    head.eval()
    batch = a_batch(2, (40, 72))
    answer = head(Features(towers, batch))
    metrics = head.metrics()
    head.measure(metrics, answer, batch)
    assert metrics.compute()["confusion"].sum() == 2 * 40 * 54 == head.loss(answer, batch).terms["cross_entropy"].count
    assert [one.semantic.shape for one in head.predictions(answer, batch)] == [(40, 72)] * 2


# -- classes that are none


@pytest.mark.parametrize("void", ["void", 4])
def test_an_ignored_class_counts_zero_and_is_never_answered(void):
    towers, head = a_head(["sky", "road", "car", "tree", "void"], ignore=[void])
    head.decoder.linear.bias.data[4] = 1e3
    batch = a_batch()
    answer = head(Features(towers, batch))
    known = ((true_maps(batch) >= 0) & (true_maps(batch) < 4)).sum()
    assert head.counts(batch)["cross_entropy"] == known < 3 * 16 * 18
    metrics = head.metrics()
    head.measure(metrics, answer, batch)
    confusion = metrics.compute()["confusion"]
    assert confusion.sum() == known and not confusion[4].any() and not confusion[:, 4].any()
    assert all(one.semantic.max() < 4 for one in head.predictions(answer, batch))
    others = torch.cat([answer["logits"][:, :4], torch.full_like(answer["logits"][:, 4:], -torch.inf)], dim=1)
    whole = functional.interpolate(others[:, :4], size=(16, 24), mode="bilinear", align_corners=False)
    wanted = true_maps(batch).masked_fill(true_maps(batch) == 4, -1)
    torch.testing.assert_close(head.loss(answer, batch).value, functional.cross_entropy(whole, wanted, ignore_index=-1))


# -- predictions


@pytest.mark.parametrize("size", [(40, 20), (30, 60), (16, 24), (7, 5)], ids=str)
def test_predictions_are_in_the_pixels_of_the_original_picture(size):
    """Scores that tell the true map at the canvas give back the original map where the canvas is no coarser, padding and all."""
    _, head = a_head()
    canvas, patch = (80, 80), 5  # of the original's pixels, that each has one class
    crop = Fit(canvas).plan(*size)
    original = torch.arange(-(-size[0] // patch) * -(-size[1] // patch)).view(-(-size[0] // patch), -1) % 5
    original = original.repeat_interleave(patch, 0).repeat_interleave(patch, 1)[: size[0], : size[1]]
    frame = crop.frame(*size)
    prepared = torch.full(canvas, 4)
    prepared[: frame.rows, : frame.columns] = nearest(original, frame)
    logits = functional.one_hot(prepared, 5).permute(2, 0, 1)[None].float()
    batch = a_batch(1, canvas)
    batch.targets[0] = Target(frame)  # as of a picture about which nothing is known
    (found,) = head.predictions(Answer({"logits": logits}), batch)
    assert found.semantic.dtype == torch.uint8 and torch.equal(found.semantic.long(), original)


def test_padding_is_not_predicted():
    towers, head = a_head()
    batch = a_batch()
    batch.real_B[1] = False
    assert [one.id for one in head.predictions(head(Features(towers, batch)), batch)] == ["picture 0", "picture 2"]


def test_more_classes_than_a_byte_holds_are_told_all(tmp_path):
    towers, head = a_head(300)
    head.decoder.linear.bias.data[299] = 1e3
    batch = a_batch(1)
    (found,) = head.predictions(head(Features(towers, batch)), batch)
    assert found.semantic.dtype == torch.int16 and found.semantic.eq(299).all()
    stored = np.array(Image.open(write_map(tmp_path, found)))
    assert stored.dtype == np.uint16 and (stored == 299).all()


# -- pictures


def test_pictures_stand_beside_truth_and_answer_in_the_classes_colours():
    towers, head = a_head()
    batch = a_batch(2)
    answer = head(Features(towers, batch))
    sheet = head.pictures(answer, batch)["segmentation"]
    assert sheet.shape == (3, 2 * 20, 3 * 28)
    blocks = [sheet[:, 2:18, start : start + 24] for start in (2, 30, 58)]
    assert torch.equal(blocks[0], batch.images_BCHW[0].float() / 255)
    said = head.predictions(answer, batch)[0].semantic.long()
    for block, classes in zip(blocks[1:], (true_maps(batch)[0], said), strict=True):
        assert torch.equal(block, palette(5)[classes].permute(2, 0, 1).float() / 255)


# -- mistakes


@pytest.mark.parametrize(
    "options, told",
    [
        ({"classes": None}, "a segmenter needs its classes"),
        ({"classes": ["sky"]}, "with none ignored given; two that are not are needed"),
        ({"ignore": ["yak"]}, "ignore yak is none of the classes sky, road, car; give names, or numbers from 0"),
        ({"ignore": [3]}, "ignore 3 is none of the classes"),
        ({"ignore": ["sky", 1]}, "two that are not are needed"),
        ({"auxiliary": -0.1}, "auxiliary -0.1 must be a weight of 0 or more"),
        ({"overlap": 1.0}, "overlap 1.0 a share from 0 to below 1"),
        ({"weight": -1.0}, "head weight -1.0 given"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        Segment(Towers(Vit(**SIZES)), **{"classes": ["sky", "road", "car"]} | options)


def test_data_of_other_classes_is_refused():
    summary = partial(Summary, "pictures", "masks", 10, 5, 0, 16, 16, 3, None, "", known=frozenset({"semantic"}))
    head = Segment(Towers(Vit(**SIZES)), classes=["sky", "road"])
    head.check(summary(object_classes=["sky", "road"]))
    Segment(Towers(Vit(**SIZES)), classes=2).check(summary(object_classes=["sky", "road"]))
    with pytest.raises(ValueError, match="pictures has the classes sky, yak, this segmenter sky, road"):
        head.check(summary(object_classes=["sky", "yak"]))
    with pytest.raises(ValueError, match="has no class for every pixel to learn"):
        head.check(summary())


# -- real pictures


@pytest.mark.skipif(not CAMVID.is_dir(), reason="needs the CamVid frames of the shared data")
def test_the_loss_on_real_street_scenes_falls():
    data = Data(path=str(CAMVID), image_size=(48, 64), batch_size=8, num_workers=0)
    data.wants = Segment.wants
    towers, head = a_head(data.inspect().semantic_classes, {"image_size": (48, 64)}, ignore=["11"])
    nn.init.zeros_(head.decoder.linear.weight)
    optimizer = torch.optim.AdamW([*towers.parameters(), *head.parameters()], lr=3e-3)
    losses = []
    for _, batch in zip(range(12), data.train_dataloader(), strict=False):
        loss = head.loss(head(Features(towers, batch)), batch).value
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[0] == pytest.approx(np.log(11), abs=1e-3) and np.mean(losses[-3:]) < 0.85 * losses[0]
