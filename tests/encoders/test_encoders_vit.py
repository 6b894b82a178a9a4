"""Promises of mae_vlm.encoders.vit and .init. Letters as there."""

import math

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from mae_vlm.encoders.vit import IMAGENET_MEAN, IMAGENET_STD, Vit
from mae_vlm.tokens.positions import sincos_2d

TINY = {"width": 32, "depth": 2, "heads": 4, "patch": 4, "image_size": 16}
SIZED = {
    "plain": {},
    "learned positions": {"positions": "learned"},
    "rectangle": {"image_size": (8, 24)},
    "1 channel": {"channels": 1},
    "5 channels": {"channels": 5},
    "3 registers": {"registers": 3},
    "8 class tokens": {"class_tokens": 8},
    "no class token": {"class_tokens": 0},
}
NAMED = {
    "vit_tiny_patch16_224": {"image_size": 64},
    "vit_small_patch16_dinov3": {"image_size": (32, 64)},
    "vit_small_patch16_rope_mixed_ape_224": {"image_size": 64, "channels": 1},
    "eva02_tiny_patch14_224": {"image_size": 56},
    "deit3_small_patch16_224": {"image_size": (64, 32), "channels": 5},
    "vit_xsmall_patch16_clip_224": {"image_size": 64},
    "vit_wee_patch16_reg1_gap_256": {"image_size": 64},
}
CASES = [pytest.param(TINY | more, id=name) for name, more in SIZED.items()] + [
    pytest.param({"name": name} | more, id=name) for name, more in NAMED.items()
]


def built(arguments: dict) -> Vit:
    """An encoder in which no weight is at a special value such as 0 or 1."""
    torch.manual_seed(0)
    encoder = Vit(**arguments).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return encoder


def timms_own(arguments: dict) -> torch.nn.Module:
    """The same network asked of timm directly, without our arguments."""
    channels, size = arguments.get("channels", 3), arguments["image_size"]
    if "name" in arguments:
        return timm.create_model(arguments["name"], img_size=size, in_chans=channels, num_classes=0, global_pool="").eval()
    class_tokens = arguments.get("class_tokens", 1)
    return VisionTransformer(
        img_size=size, patch_size=4, in_chans=channels, embed_dim=32, depth=2, num_heads=4, num_classes=0, global_pool="",
        class_token=class_tokens > 0, reg_tokens=max(class_tokens - 1, 0) + arguments.get("registers", 0),
    ).eval()  # fmt: skip


def pictures(encoder: Vit, count: int = 2) -> torch.Tensor:
    space = encoder.space
    return torch.randn(count, space.channels, space.height, space.width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("arguments", CASES)
@torch.no_grad()
def test_encoder_is_timms_own_network_in_names_and_to_the_bit_and_gathers_without_loss(arguments):
    encoder, theirs = built(arguments), timms_own(arguments)
    assert encoder.vit.state_dict().keys() == theirs.state_dict().keys()
    theirs.load_state_dict(encoder.vit.state_dict())
    images_BCHW = pictures(encoder)
    full = encoder.full(images_BCHW)
    assert torch.equal(full.tokens_BTD, theirs.forward_features(images_BCHW))
    assert full.tokens_BTD.shape == (2, encoder.prefix + encoder.space.patches, encoder.width)

    every_BK = torch.arange(encoder.space.patches).expand(2, -1)
    gathered = encoder.visible(encoder.patchify(images_BCHW), every_BK)
    torch.testing.assert_close(gathered.tokens_BTD, full.tokens_BTD, rtol=0, atol=1e-5)

    shuffled_BK = torch.stack([torch.randperm(encoder.space.patches) for _ in range(2)])  # another order for each picture
    shuffled = encoder.visible(encoder.patchify(images_BCHW), shuffled_BK)
    back_BND = torch.empty_like(full.patches_BND)
    back_BND.scatter_(1, shuffled_BK[..., None].expand_as(back_BND), shuffled.patches_BND)
    torch.testing.assert_close(back_BND, full.patches_BND, rtol=0, atol=1e-5)
    torch.testing.assert_close(shuffled.prefix_BTD, full.prefix_BTD, rtol=0, atol=1e-5)


@pytest.mark.parametrize("arguments", [case for case in CASES if case.id not in ("deit3_small_patch16_224", "vit_xsmall_patch16_clip_224")])
@torch.no_grad()
def test_hidden_pixels_do_not_touch_the_features_and_visible_ones_do(arguments):
    encoder = built(arguments)
    patches_BNP = encoder.patchify(pictures(encoder))
    keep_BK = torch.stack([torch.randperm(encoder.space.patches)[:3] for _ in range(2)])
    seen = encoder.visible(patches_BNP, keep_BK).tokens_BTD
    assert seen.shape == (2, encoder.prefix + 3, encoder.width)
    place_BK1 = keep_BK[..., None].expand(-1, -1, patches_BNP.shape[-1])
    other_BNP = torch.full_like(patches_BNP, 1e4).scatter(1, place_BK1, patches_BNP.gather(1, place_BK1))
    assert torch.equal(encoder.visible(other_BNP, keep_BK).tokens_BTD, seen)
    assert not torch.allclose(encoder.visible(patches_BNP + 1, keep_BK).tokens_BTD, seen, atol=1e-3)


@pytest.mark.parametrize("arguments", [TINY | {"class_tokens": 8}, {"name": "eva02_tiny_patch14_224", "image_size": 56}], ids=str)
@torch.no_grad()
def test_only_prefix_and_visible_tokens_go_through_the_blocks(arguments):
    encoder, widths = built(arguments), []
    for block in encoder.vit.blocks:
        block.register_forward_hook(lambda module, given, result: widths.append((given[0].shape[1], result.shape[1])))
    encoder.visible(encoder.patchify(pictures(encoder)), torch.tensor([[0, 5, 2], [7, 1, 4]]))
    assert widths == [(encoder.prefix + 3, encoder.prefix + 3)] * len(encoder.vit.blocks)


@torch.no_grad()
def test_the_place_of_a_visible_patch_matters():
    encoder = built(TINY)
    patches_BNP = torch.ones(1, 16, 48)  # every patch alike: only the place differs
    first, second = (encoder.visible(patches_BNP, torch.tensor([[place]])).tokens_BTD for place in (0, 5))
    assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize("more", [{}, {"class_tokens": 8}, {"image_size": (8, 24)}], ids=str)
def test_sincos_positions_are_fixed_and_zero_for_prefix_tokens(more):
    encoder = Vit(**TINY | more)
    table = encoder.vit.pos_embed
    assert not table.requires_grad
    assert (table[:, : encoder.prefix] == 0).all()
    assert torch.equal(table[0], sincos_2d(32, encoder.space.rows, encoder.space.columns, encoder.prefix))


def test_learned_positions_are_trainable_and_drawn_like_tokens():
    table = Vit(width=256, depth=1, heads=4, patch=4, image_size=32, positions="learned").vit.pos_embed
    assert table.requires_grad
    assert table.std().item() == pytest.approx(0.02, rel=0.05)


def test_class_tokens_beyond_the_first_are_registers_and_are_counted():
    encoder = Vit(**TINY, class_tokens=8, registers=2)
    assert (encoder.class_tokens, encoder.prefix) == (8, 10)
    assert encoder.vit.cls_token.shape[1] == 1
    assert encoder.vit.reg_token.shape[1] == 9


@pytest.mark.parametrize(
    ("name", "asked", "has"),
    [
        ("vit_wee_patch16_reg1_gap_256", 1, 0),
        ("vit_tiny_patch16_224", 1, 1),
        ("vit_tiny_patch16_224", 0, 0),
        ("eva02_tiny_patch14_224", 0, 0),
    ],
)
def test_a_named_model_counts_only_the_class_tokens_that_it_has(name, asked, has):
    encoder = Vit(name, image_size=56 if "14" in name else 64, class_tokens=asked)
    assert encoder.class_tokens == has
    assert (encoder.vit.cls_token is not None) == (has > 0)


def test_linears_and_the_flattened_patch_projection_are_xavier_uniform():
    torch.manual_seed(0)
    encoder = Vit(width=128, depth=2, heads=4, patch=8, image_size=32)
    matrices = [m.weight for m in encoder.modules() if isinstance(m, torch.nn.Linear)]
    matrices.append(encoder.vit.patch_embed.proj.weight.flatten(1))  # 128 x 192, not the convolution's own fan-in and fan-out
    assert len(matrices) == 2 * 4 + 1
    for weight in matrices:
        bound = math.sqrt(6 / sum(weight.shape))
        assert 0.99 * bound < weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_biases_start_at_zero_norms_plain_and_tokens_at_deviation_one_fiftieth():
    torch.manual_seed(0)
    encoder = Vit(width=384, depth=1, heads=4, patch=8, image_size=32, class_tokens=8)
    for name, parameter in encoder.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
    assert encoder.vit.cls_token.std().item() == pytest.approx(0.02, rel=0.1)
    assert encoder.vit.reg_token.std().item() == pytest.approx(0.02, rel=0.1)


def test_norms_have_the_papers_epsilon():
    assert {m.eps for m in Vit(**TINY).modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-6}


def test_normalise_takes_bytes_and_unit_floats_to_the_same_numbers():
    encoder = Vit(**TINY)
    bytes_BCHW = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    expected = torch.stack([(bytes_BCHW[0, 0] / 255 - m) / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)])[None]
    torch.testing.assert_close(encoder.normalise(bytes_BCHW), expected)
    torch.testing.assert_close(encoder.normalise(bytes_BCHW / 255), expected)
    assert Vit(**TINY, channels=1).normalise(bytes_BCHW[:, :1]).max() == 1.0  # .5 and .5 where ImageNet says nothing


def test_an_unknown_name_is_told_with_near_ones():
    with pytest.raises(ValueError, match=r"no model named 'vit_tiny_patch16_244'; did you mean .*vit_tiny_patch16_224"):
        Vit("vit_tiny_patch16_244")


def test_a_name_like_nothing_is_told_where_to_look():
    with pytest.raises(ValueError, match=r"no model named 'qqqqqqqq'; see timm.list_models"):
        Vit("qqqqqqqq")


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "resnet18", "vit_tiny_r_s16_p8_224", "deit_tiny_distilled_patch16_224"])
def test_another_family_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}.*"):
        Vit(name)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"image_size": 18}, "height 18 is not a multiple of the patch 4"),
        ({"image_size": (16, 18)}, "width 18 is not a multiple of the patch 4"),
        ({"width": 30}, "width 30, depth 2, heads 4"),
        ({"width": 0}, "width 0"),
        ({"depth": 0}, "depth 0"),
        ({"patch": 0}, "patch 0"),
        ({"positions": "fourier"}, "positions 'fourier' given, allowed are sincos and learned"),
        ({"class_tokens": -1}, "class_tokens -1"),
        ({"mean": [0.5]}, "mean has 1 values, the pictures have 3 channels"),
        ({"width": 34, "heads": 2}, "multiple of 4, got 34"),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_are_refused_with_the_numbers(wrong, told):
    with pytest.raises(ValueError, match=told):
        Vit(**TINY | wrong)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224"])
def test_an_image_size_that_does_not_fit_a_named_model_is_refused_with_the_numbers(name):
    with pytest.raises(ValueError, match="height 60 is not a multiple of the patch 1"):
        Vit(name, image_size=(60, 112))
