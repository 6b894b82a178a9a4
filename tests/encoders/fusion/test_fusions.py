"""Promises of the five fusion towers. Letters as there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from captioned import a_batch, towers
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.fusion.additive import Additive, AdditiveAttention
from mae_vlm.encoders.fusion.coattention import CoAttention
from mae_vlm.encoders.fusion.cross import CrossAttention
from mae_vlm.encoders.fusion.early import Early
from mae_vlm.encoders.fusion.late import Late
from mae_vlm.encoders.towers import Towers

FUSIONS = {
    "cross": (CrossAttention, {"depth": 2, "heads": 2}),
    "early": (Early, {}),
    "late": (Late, {}),
    "late, mean": (Late, {"pool": "mean", "width": 12}),
    "additive": (Additive, {}),
    "coattention": (CoAttention, {"depth": 3, "heads": 2}),
}
with_each = pytest.mark.parametrize("name", FUSIONS)
with_tokens = pytest.mark.parametrize("name", ["cross", "early", "coattention"])
with_causal = pytest.mark.parametrize("name", ["cross", "early"])
WIDER = {"width": 24, "heads": 2}  # than the text tower: 16


def a_house(name: str, **options) -> Towers:
    fusion, own = FUSIONS[name]
    return towers(fusion, **own, **options)


def told(house: Towers, texts: list[str | None], longer: int = 0, causal: bool = False):
    """Pictures with these texts, which are padded ``longer`` than they need to be: (features, words, fused)."""
    batch = a_batch([()] * len(texts))
    features = Features(house, batch)
    words = house.told_text().words(texts)
    words = words.padded(words.ids_BT.shape[1] + longer, house.told_text().vocabulary.pad)
    return features, words, features.fuse(features.read(words, causal), causal=causal)


@with_each
@pytest.mark.parametrize("image", [{}, WIDER], ids=["same width", "other width"])
def test_padding_changes_nothing(name, image):
    house = a_house(name, image=image, text={"length": 40})
    texts = ["a red square", "a large blue circle and a small ring", None]
    _, words, fused = told(house, texts)
    for longer in (8, 13):
        _, _, more = told(house, texts, longer)
        assert torch.allclose(more.pooled_BD, fused.pooled_BD, rtol=0, atol=1e-12)
        if fused.tokens_BTD is not None:
            across = fused.tokens_BTD.shape[1]
            real = words.real_BT[..., None]
            assert torch.allclose(more.tokens_BTD[:, :across] * real, fused.tokens_BTD * real, rtol=0, atol=1e-12)
        if fused.patches_BND is not None:
            assert torch.allclose(more.patches_BND, fused.patches_BND, rtol=0, atol=1e-12)
    _, _, alone = told(house, texts[:1])  # the longer one beside it pads it
    assert torch.allclose(alone.pooled_BD[0], fused.pooled_BD[0], rtol=0, atol=1e-12)


@with_causal
def test_padding_changes_nothing_causal_either(name):
    house = a_house(name)
    _, words, fused = told(house, ["a red square", "a blue circle and a ring"], causal=True)
    _, _, more = told(house, ["a red square", "a blue circle and a ring"], longer=8, causal=True)
    real = words.real_BT[..., None]
    assert torch.allclose(more.tokens_BTD[:, : real.shape[1]] * real, fused.tokens_BTD * real, rtol=0, atol=1e-12)


@with_each
def test_what_padding_stands_for_changes_nothing(name):
    house = a_house(name)
    features, words, fused = told(house, ["a red square", "a blue circle"])
    other = replace(words, ids_BT=torch.where(words.real_BT, words.ids_BT, 7))
    assert not torch.equal(other.ids_BT, words.ids_BT)
    assert torch.allclose(features.fuse(features.read(other)).pooled_BD, fused.pooled_BD, rtol=0, atol=1e-12)


@with_each
def test_every_word_and_the_picture_count(name):
    house = a_house(name)
    features, _, fused = told(house, ["a red square on the left", "a ring"])
    _, _, other = told(house, ["a red square on the right", "a ring"])
    changed = (other.pooled_BD - fused.pooled_BD).abs().amax(1)
    assert changed[0] > 1e-4 and changed[1] < 1e-12
    swapped = features.fuse(
        features.read(house.told_text().words(["a red square on the left", "a ring"])), features.seen.rows(torch.tensor([1, 0]))
    )
    assert (swapped.pooled_BD - fused.pooled_BD).abs().amax(1).min() > 1e-4


@with_each
def test_shapes_are_those_promised(name):
    house = a_house(name)
    _, words, fused = told(house, ["a red square", "a ring"])
    fusion = house.told_fusion()
    assert fused.pooled_BD.shape == (2, fusion.width)
    assert (fused.tokens_BTD is not None) == fusion.tokens
    if fusion.tokens:
        assert fused.tokens_BTD.shape == (*words.ids_BT.shape, fusion.width)
        assert fused.patches_BND.shape == (2, 16, fusion.width)


@with_tokens
def test_the_pooled_feature_or_the_tokens_alone_train_every_weight(name):
    for used in ("pooled_BD", "tokens_BTD"):
        house = a_house(name)
        _, _, fused = told(house, ["a red square", "a ring"])
        getattr(fused, used).square().sum().backward()
        assert not [weight for weight, value in house.named_parameters() if value.requires_grad and value.grad is None], used


@pytest.mark.parametrize("name", ["late", "additive"])
def test_the_pooled_feature_trains_every_weight(name):
    house = a_house(name)
    _, _, fused = told(house, ["a red square", "a ring"])
    fused.pooled_BD.square().sum().backward()
    assert not [weight for weight, value in house.named_parameters() if value.requires_grad and value.grad is None]


@with_causal
def test_causal_no_token_sees_a_later_word(name):
    house = a_house(name)
    assert house.told_fusion().causal
    _, words, fused = told(house, ["a red square on the left side"], causal=True)
    _, other_words, other = told(house, ["a red square on the right side"], causal=True)
    first = int((words.ids_BT != other_words.ids_BT)[0].int().argmax())
    difference = (fused.tokens_BTD - other.tokens_BTD).abs().amax(-1)[0]
    assert first >= 4 and difference[:first].max() < 1e-12 and difference[first:8].min() > 1e-5


@with_tokens
def test_otherwise_each_token_sees_later_words_and_each_patch_all_patches(name):
    house = a_house(name)
    features, _, fused = told(house, ["a red square on the left side"])
    _, _, other = told(house, ["a red square on the right side"])
    assert (fused.tokens_BTD - other.tokens_BTD).abs().amax(-1)[0, :4].min() > 1e-5
    seen = features.seen
    last = seen.tokens_BTD.clone()
    last[:, -1] = last[:, 0]
    moved = features.fuse(features.read(house.told_text().words(["a red square on the left side"])), replace(seen, tokens_BTD=last))
    assert (fused.tokens_BTD - moved.tokens_BTD).abs().amax(-1)[0, :4].min() > 1e-5
    if name != "cross":
        assert (fused.patches_BND - moved.patches_BND).abs().amax(-1)[0].min() > 1e-6


@pytest.mark.parametrize("name", ["early", "coattention"])
def test_patches_see_words(name):
    house = a_house(name)
    _, _, fused = told(house, ["a red square on the left side"])
    _, _, other = told(house, ["a red square on the right side"])
    assert (fused.patches_BND - other.patches_BND).abs().amax(-1).min() > 1e-6


@pytest.mark.parametrize("name", ["late", "additive", "coattention"])
def test_a_fusion_that_cannot_be_causal_says_what_can(name):
    house = a_house(name)
    assert not house.told_fusion().causal
    with pytest.raises(ValueError, match=r"cannot keep a word from seeing those after it.*CrossAttention or \.early\.Early"):
        told(house, ["a ring"], causal=True)


@with_each
def test_operations_counted_are_those_done(name):
    house = a_house(name, image=WIDER).float().requires_grad_(False)
    words = house.told_text().words(["a red square", "a ring"])
    features = Features(house, a_batch([()] * 2))
    text, seen = features.read(words), features.seen
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # fused attention is not counted everywhere
        features.fuse(text)
    done = counter.get_total_flops()
    assert house.told_fusion().flops(8, seen.tokens_BTD.shape[1]) * 2 == pytest.approx(done, rel=0.03)


def test_the_single_stream_runs_all_blocks_of_the_image_encoder_and_has_hardly_weights_of_its_own():
    house = a_house("early", text={"depth": 0})
    own = dict(house.told_fusion().named_parameters())
    assert list(own) == ["marks.weight"] and own["marks.weight"].shape == (2, 16)
    runs = []
    for block in house.image.vit.blocks:
        block.register_forward_hook(lambda module, given, result: runs.append(result.shape[1]))
    told(house, ["a ring", "a red square"])
    assert runs == [8 + 17] * 2


def test_the_single_stream_computes_blocks_again_where_the_encoder_does_and_gives_the_same_gradients():
    found = []
    for again in (False, True):
        house = a_house("early", image={"checkpoint_blocks": again}).train()
        _, _, fused = told(house, ["a ring", "a red square"])
        fused.pooled_BD.square().sum().backward()
        found.append(house.image.vit.blocks[0].attn.qkv.weight.grad)
    assert torch.allclose(*found, rtol=0, atol=1e-12)


def test_additive_attention_is_the_softmax_of_scores_written_out():
    torch.manual_seed(0)
    attention = AdditiveAttention(4).double()
    query, tokens = torch.randn(1, 4).double(), torch.randn(1, 3, 4).double()
    scores = [
        (
            attention.score.weight[0] @ torch.tanh(attention.token.weight @ one + attention.token.bias + attention.asked.weight @ query[0])
        ).item()
        for one in tokens[0, :2]
    ]
    share = torch.tensor(scores).double().softmax(0)
    found = attention(query, tokens, torch.tensor([[True, True, False]]))
    assert torch.allclose(found[0], share[0] * tokens[0, 0] + share[1] * tokens[0, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("cross", {"heads": 3}, "depth 4, heads 3 given.*width 16 a multiple"),
        ("cross", {"depth": 0}, "depth must be 1 or more"),
        ("coattention", {"depth": 1}, "depth must be 2 or more"),
        ("late", {"pool": "last"}, "pool 'last' given.*first, end, mean"),
        ("late", {"width": 0}, "sizes must be 1 or more"),
        ("additive", {"rounds": 0}, "rounds 0 given, allowed is 1 or more"),
    ],
)
def test_wrong_options_are_told_in_one_line(name, options, says):
    with pytest.raises(ValueError, match=says) as told_off:
        towers(FUSIONS[name][0], **options)
    assert "\n" not in str(told_off.value)


def test_a_single_stream_refuses_rotary_positions():
    with pytest.raises(ValueError, match="rotary positions, among which words have no place"):
        towers(
            Early, image={"name": "vit_small_patch16_dinov3", "image_size": 32, "width": None, "depth": None, "heads": None, "patch": None}
        )


@with_each
def test_a_fusion_needs_a_text_tower(name):
    fusion, options = FUSIONS[name]
    with pytest.raises(ValueError, match="needs a text tower"):
        Towers(a_house("late").image, None, lambda house: fusion(house, **options))
