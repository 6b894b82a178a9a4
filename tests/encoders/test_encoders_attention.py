"""What the encoder's pictures promise: the true attention of the last block, and colours that mean the same across pictures."""

import pytest
import torch

from mae_vlm.encoders.attention import attention_pictures, last_attention
from mae_vlm.encoders.contact_sheet import contact_sheet
from mae_vlm.encoders.feature_colours import colour_pictures, main_directions
from mae_vlm.encoders.vit import Vit

SIZES = {"width": 32, "depth": 2, "heads": 2, "patch": 8, "image_size": (32, 48)}


@pytest.fixture
def images():
    return torch.randn(3, 3, 32, 48, generator=torch.Generator().manual_seed(1))


def test_the_recorded_attention_is_what_the_last_block_computes(images):
    encoder = Vit(**SIZES).eval()
    block, seen = encoder.vit.blocks[-1], {}
    block.attn.register_forward_pre_hook(lambda module, inputs: seen.update(x=inputs[0]))
    attention_BTT = last_attention(encoder, images)
    batch, tokens, width = seen["x"].shape
    query, key, _ = block.attn.qkv(seen["x"]).view(batch, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
    expected = (query @ key.transpose(-2, -1) * (width // 2) ** -0.5).softmax(-1).mean(1)
    assert torch.allclose(attention_BTT, expected, atol=1e-6)
    assert torch.allclose(attention_BTT.sum(-1), torch.ones(batch, tokens), atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"class_tokens": 0}, {"channels": 5}, {"channels": 1}, {"class_tokens": 2, "registers": 1}])
def test_every_kind_of_encoder_is_drawn(options):
    encoder = Vit(**SIZES, **options).eval()
    images = torch.randn(2, options.get("channels", 3), 32, 48)
    attention, colours = attention_pictures(encoder, images), colour_pictures(encoder, images)
    assert attention.shape == (3, 2 * 36, 4 * 52) and colours.shape == (3, 2 * 36, 3 * 52)
    for sheet in (attention, colours):
        assert sheet.min() >= 0 and sheet.max() <= 1 and sheet.isfinite().all()


def test_a_rotary_encoder_is_drawn_too():
    encoder = Vit(name="vit_small_patch16_dinov3", image_size=32).eval()
    assert attention_pictures(encoder, torch.randn(1, 3, 32, 32)) is not None


def test_the_main_directions_are_those_with_the_most_variance():
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([0.1, 5.0, 0.1, 3.0, 1.0])
    features = torch.randn(4000, 5, generator=generator) * scales + 7
    directions = main_directions(features)
    assert directions.abs().argmax(0).tolist() == [1, 3, 4]
    assert torch.allclose(directions.T @ directions, torch.eye(3), atol=1e-5)
    assert (directions.gather(0, directions.abs().argmax(0, keepdim=True)) > 0).all()


def test_constant_pictures_have_colours_without_a_fault():
    encoder = Vit(**SIZES).eval()
    assert colour_pictures(encoder, torch.zeros(2, 3, 32, 48)).isfinite().all()


def test_colours_of_what_tells_the_place_alone_are_taken_out():
    """Pictures of one colour each: patches of a picture differ by their place alone, which is the same in all."""
    encoder = Vit(**SIZES, positions="learned").eval()
    for block in encoder.vit.blocks:  # which do nothing
        for layer in (block.attn.proj, block.mlp.fc2):
            torch.nn.init.zeros_(layer.weight)
    encoder.vit.norm = torch.nn.Identity()
    torch.nn.init.normal_(encoder.vit.pos_embed, std=10)
    images = torch.randn(4, 3, 1, 1, generator=torch.Generator().manual_seed(0)).expand(4, 3, 32, 48)
    rows = colour_pictures(encoder, images)[:, 2:, 2:].unfold(1, 32, 36).unfold(2, 48, 52)  # [3, picture, column, 32, 48]
    assert rows[:, :, 1].std(dim=(-2, -1)).min() > 0.1
    assert rows[:, :, 2].std(dim=(-2, -1)).max() < 1e-3 and rows[:, :, 2].std(dim=1).max() > 0.1
    assert colour_pictures(encoder, images[:1]).shape == (3, 36, 2 * 52)


def test_grey_and_coloured_columns_share_a_sheet():
    sheet = contact_sheet([torch.zeros(2, 1, 4, 4), torch.ones(2, 3, 4, 4)], gap=1)
    assert sheet.shape == (3, 12, 12) and sheet[:, 1:5, 1:5].sum() == 0
