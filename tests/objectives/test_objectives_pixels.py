"""Promises of mae_vlm.objectives.pixels and its decoder. Letters as there."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.objectives.parts.pixel_decoder import PixelDecoder
from mae_vlm.objectives.pixels import Pixels, patch_statistics, squared_error
from mae_vlm.tokens.masking import RandomMask
from mae_vlm.tokens.patchify import take, unpatchify
from mae_vlm.tokens.positions import sincos_2d
from mae_vlm.types import Batch

MASK = RandomMask(0.75)


def towers(**more) -> Towers:
    torch.manual_seed(0)
    return Towers(Vit(**{"width": 32, "depth": 1, "heads": 4, "patch": 4, "image_size": (16, 24)} | more))


def a_batch(count: int = 3, channels: int = 3, seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, channels, 16, 24), dtype=torch.uint8, generator=draw)
    return Batch(images, torch.arange(count), torch.ones(count, dtype=torch.bool), torch.full((count,), -1), [f"{i}" for i in range(count)])


class Saying(nn.Module):
    """A decoder that predicts given patches, whatever it is shown."""

    def __init__(self, patches_BNP: torch.Tensor) -> None:
        super().__init__()
        self.patches_BNP = patches_BNP

    def forward(self, encoded, masking):
        return self.patches_BNP

    def hidden(self, encoded, masking):
        return take(self.patches_BNP, masking.hide_BM)


def normalised(patches_BNP: torch.Tensor) -> torch.Tensor:
    """Each patch less its mean, over the root of its unbiased variance plus 1e-6, written out."""
    centred = patches_BNP - patches_BNP.sum(-1, keepdim=True) / patches_BNP.shape[-1]
    return centred / (centred.square().sum(-1, keepdim=True) / (patches_BNP.shape[-1] - 1) + 1e-6).sqrt()


@pytest.mark.parametrize("normalise", [True, False])
def test_loss_is_the_papers_mean_over_hidden_patches(normalise):
    house = towers()
    pixels, batch = Pixels(house, width=16, depth=1, heads=2, normalise=normalise), a_batch()
    features = Features(house, batch, MASK)
    loss = pixels(features, batch)
    target_BNP = normalised(features.patches_BNP) if normalise else features.patches_BNP
    error_BN = (pixels.decoder(features.masked, features.masking) - target_BNP).square().mean(-1)
    mask_BN = features.masking.hidden_BN()
    torch.testing.assert_close(loss.value, (error_BN * mask_BN).sum() / mask_BN.sum())
    assert loss.logs.keys() == {"masked_mse"}
    assert not loss.logs["masked_mse"].requires_grad


def test_only_hidden_pixels_are_targets():
    house, batch = towers(), a_batch()
    features = Features(house, batch, MASK)
    pixels = Pixels(house, width=16, depth=0)
    pixels.decoder = Saying(torch.randn_like(features.patches_BNP))
    hidden_BN1 = features.masking.hidden_BN()[..., None].bool()
    inverted_BNP = 255 - house.image.patchify(batch.images_BCHW.float())

    def loss_with(where_BN1):
        changed_BNP = torch.where(where_BN1, inverted_BNP, 255 - inverted_BNP)
        changed = replace(batch, images_BCHW=unpatchify(changed_BNP, house.image.space).to(torch.uint8))
        return pixels(Features(house, changed, MASK), changed).value

    before = loss_with(torch.zeros_like(hidden_BN1))
    assert torch.equal(loss_with(~hidden_BN1), before)
    assert not torch.equal(loss_with(hidden_BN1), before)


def test_every_weight_of_encoder_and_decoder_learns():
    house = towers(class_tokens=2, positions="learned")
    pixels, batch = Pixels(house, width=16, depth=1, heads=2), a_batch()
    pixels(Features(house, batch, MASK), batch).value.backward()
    for name, parameter in [*house.named_parameters(), *pixels.named_parameters()]:
        assert not parameter.requires_grad or parameter.grad.abs().max() > 0, name


def test_targets_are_normalised_with_the_unbiased_variance():
    patches = torch.randn(2, 5, 48) * 3 + 1
    mean, deviation = patch_statistics(patches)
    torch.testing.assert_close(deviation, (patches.var(-1, correction=1, keepdim=True) + 1e-6).sqrt())
    torch.testing.assert_close((patches - mean) / deviation, normalised(patches))


def test_a_patch_of_one_colour_has_targets_of_zero():
    house, batch = towers(), replace(a_batch(), images_BCHW=torch.full((3, 3, 16, 24), 200, dtype=torch.uint8))
    house.image.mean.zero_()
    house.image.std.fill_(1)
    pixels = Pixels(house, width=16, depth=0).eval()
    loss = pixels(Features(house, batch, MASK), batch)
    assert loss.logs["predict_zero"] < 1e-6


def test_loss_is_float32_under_bfloat16_autocast():
    house, batch = towers(), a_batch()
    pixels = Pixels(house, width=16, depth=1, heads=2)
    with torch.autocast("cpu", torch.bfloat16):
        features = Features(house, batch, MASK)
        predicted = pixels.decoder.hidden(features.masked, features.masking)
        loss = pixels(features, batch)
    assert predicted.dtype == torch.bfloat16
    assert loss.value.dtype == torch.float32
    target_BMP = normalised(take(features.patches_BNP, features.masking.hide_BM)).double()
    exact = (predicted.double() - target_BMP).square().mean()
    assert loss.value.item() == pytest.approx(exact.item(), rel=1e-6)  # bfloat16 has 3e-3


def test_error_of_half_precision_is_summed_in_float32():
    predicted = torch.full((1, 200, 768), 1.0, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        error_B = squared_error(predicted, torch.full_like(predicted, 0.5).float())
    assert error_B.dtype == torch.float32
    assert error_B.item() == 0.25


def test_predicting_zero_costs_the_share_that_the_unbiased_variance_leaves():
    house, batch = towers(), a_batch(8)
    pixels = Pixels(house, width=16, depth=0).eval()
    zero = pixels(Features(house, batch, MASK), batch).logs["predict_zero"].item()
    assert zero == pytest.approx(47 / 48, rel=1e-4)


def test_validation_counts_real_pictures_alone():
    house = towers().eval()
    pixels = Pixels(house, width=16, depth=1, heads=2).eval()
    real = a_batch(3)
    filler = a_batch(2, seed=9)
    padded = Batch(
        torch.cat([real.images_BCHW, filler.images_BCHW]), torch.arange(5), torch.tensor([True] * 3 + [False] * 2), torch.full((5,), -1)
    )
    with torch.no_grad():
        alone, together = (pixels(Features(house, batch, MASK), batch) for batch in (real, padded))
    for term in ("masked_mse", "predict_zero"):
        torch.testing.assert_close(together.logs[term], alone.logs[term])
    torch.testing.assert_close(together.value, alone.value)
    assert together.value == together.logs["masked_mse"]


def test_a_batch_of_padding_alone_counts_zero_and_stays_finite():
    house = towers().eval()
    pixels = Pixels(house, width=16, depth=1, heads=2).eval()
    batch = replace(a_batch(), real_B=torch.zeros(3, dtype=torch.bool))
    with torch.no_grad():
        assert all(value == 0 for value in pixels(Features(house, batch, MASK), batch).logs.values())


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_every_picture_is_held_against_another_one_and_a_perfect_prediction_fails_there(count):
    house, batch = towers().eval(), a_batch(count)
    pixels = Pixels(house, width=16, depth=0).eval()
    features = Features(house, batch, MASK)
    pixels.decoder = Saying(normalised(features.patches_BNP))
    logs = pixels(features, batch).logs
    assert logs["masked_mse"] < 1e-10
    assert logs["other_picture"] > 1.5  # two unrelated unit variances


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_perfect_prediction_is_drawn_as_the_original(normalise, channels):
    house, batch = towers(channels=channels).eval(), a_batch(2, channels)
    pixels = Pixels(house, width=16, depth=0, normalise=normalise)
    features = Features(house, batch, MASK)
    pixels.decoder = Saying(normalised(features.patches_BNP) if normalise else features.patches_BNP)
    sheet = pixels.pictures(features, batch)["reconstruction"]
    assert sheet.shape == (channels, 2 * (16 + 4), 4 * (24 + 4))
    assert sheet.min() >= 0 and sheet.max() <= 1
    tiles = sheet.view(channels, 2, 20, 4, 28).permute(3, 1, 0, 2, 4)[..., 2:-2, 2:-2]  # column, picture, C, H, W
    original = batch.images_BCHW / 255
    for column in (0, 2, 3):
        torch.testing.assert_close(tiles[column], original, rtol=0, atol=1e-5)
    hidden = features.masking.hidden_BN()[..., None].bool()
    shown_BNP, masked_BNP = house.image.patchify(original), house.image.patchify(tiles[1])
    torch.testing.assert_close(masked_BNP[~hidden[..., 0]], shown_BNP[~hidden[..., 0]], rtol=0, atol=1e-5)
    grey = house.image.patchify(house.image.mean.expand_as(original))
    torch.testing.assert_close(masked_BNP[hidden[..., 0]], grey[hidden[..., 0]], rtol=0, atol=1e-5)


def test_the_pasted_picture_keeps_the_visible_patches_and_takes_the_hidden_ones():
    house, batch = towers().eval(), a_batch(1)
    pixels = Pixels(house, width=16, depth=0, normalise=False)
    features = Features(house, batch, MASK)
    pixels.decoder = Saying(torch.zeros_like(features.patches_BNP))
    sheet = pixels.pictures(features, batch)["reconstruction"]
    tiles = sheet.view(3, 20, 4, 28)[:, 2:-2, :, 2:-2].unbind(2)
    torch.testing.assert_close(tiles[3], tiles[1])  # a prediction of 0 is the grey of the masked picture
    assert not torch.allclose(tiles[2], tiles[3])


def test_the_predictions_of_the_hidden_patches_are_those_of_the_whole_picture():
    house, batch = towers(class_tokens=3), a_batch()
    decoder = PixelDecoder(house, 16, 2, 2)
    features = Features(house, batch, MASK)
    whole_BNP = decoder(features.masked, features.masking)
    part_BMP = decoder.hidden(features.masked, features.masking)
    torch.testing.assert_close(part_BMP, take(whole_BNP, features.masking.hide_BM))


def test_decoder_positions_are_fixed_sincos_and_its_weights_start_as_in_the_paper():
    decoder = PixelDecoder(towers(class_tokens=2), 128, 1)
    assert not decoder.decoder_pos_embed.requires_grad
    assert torch.equal(decoder.decoder_pos_embed[0], sincos_2d(128, 4, 6, prefix=2))
    assert decoder.mask_token.std().item() == pytest.approx(0.02, rel=0.2)
    bound = (6 / (32 + 128)) ** 0.5
    assert 0.98 * bound < decoder.decoder_embed.weight.abs().max() <= bound
    assert {m.eps for m in decoder.modules() if isinstance(m, nn.LayerNorm)} == {1e-6}
    assert decoder.decoder_blocks[0].attn.num_heads == 4  # 32 numbers a head, as 512 / 16


@pytest.mark.parametrize("sizes", [{"width": 0}, {"depth": -1}, {"width": 32, "heads": 3}, {"heads": 0}], ids=str)
def test_decoder_sizes_that_do_not_fit_are_refused_with_the_numbers(sizes):
    name, value = list(sizes.items())[-1]
    with pytest.raises(ValueError, match=f"{name} {value}"):
        Pixels(towers(), **sizes)


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match=r"objective weight -0.5 given, allowed is 0 or more"):
        Pixels(towers(), weight=-0.5)


def test_a_step_reads_nothing_back_to_the_host():
    """Fake tensors have no values: any .item(), boolean index or branch on data raises."""
    house = towers(class_tokens=2)
    pixels, batch = Pixels(house, width=16, depth=1, heads=2), a_batch()
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        batch = replace(batch, **{name: fake.from_tensor(getattr(batch, name)) for name in ("images_BCHW", "keys_B", "real_B")})
        pixels(Features(house, batch, MASK), batch).value.backward()
        pixels.eval()(Features(house, batch, MASK), batch)
        with pytest.raises(DataDependentOutputException):  # what this test would see
            batch.keys_B.sum().item()
