"""Promises of mae_vlm.objectives.parts.perceptual, and of the reconstruction with it. Letters as there."""

from __future__ import annotations

from functools import partial

import pytest
import timm
import torch
from captioned import a_batch, an_image, stirred
from torch import nn

from mae_vlm.convert.timm import write
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.teacher import copied
from mae_vlm.encoders.towers import Towers
from mae_vlm.learners.optim import AdamW
from mae_vlm.learners.pretrain import Pretrainer
from mae_vlm.objectives.parts.perceptual import Perceptual
from mae_vlm.objectives.pixels import Pixels, patch_statistics
from mae_vlm.tokens.masking import RandomMask
from mae_vlm.tokens.patchify import take

MASK = RandomMask(0.75)
SMALL = {"width": 16, "depth": 1, "heads": 2}


def towers() -> tuple[Towers, Towers]:
    """Towers and another teacher."""
    torch.manual_seed(0)
    teacher = copied(stirred(Towers(an_image()).double()))
    return Towers(an_image()).double(), teacher


class Saying(nn.Module):
    """A decoder that predicts the true patches."""

    def __init__(self, patches_BNP: torch.Tensor) -> None:
        super().__init__()
        self.patches_BNP = patches_BNP

    def hidden(self, encoded, masking):
        return take(self.patches_BNP, masking.hide_BM)


def by_hand(found: list[torch.Tensor], other: list[torch.Tensor]) -> torch.Tensor:
    """LPIPS, equation 1, with every w = 1, in loops over layers and places."""
    total = torch.zeros(len(found[0]), dtype=found[0].dtype)
    for one, two in zip(found, other, strict=True):
        rows, columns = one.shape[2:]
        for row in range(rows):
            for column in range(columns):
                left, right = one[:, :, row, column], two[:, :, row, column]
                left, right = left / left.norm(dim=1, keepdim=True), right / right.norm(dim=1, keepdim=True)
                total += (left - right).pow(2).sum(1) / (rows * columns)
    return total


def test_distance_is_lpips_of_the_teachers_blocks():
    house, teacher = towers()
    features = Features(house, a_batch(), MASK, teacher=teacher)
    decoded = features.images_BCHW + 0.5 * torch.randn_like(features.images_BCHW)
    found = Perceptual(house, layers=[0, 1])(features, decoded)
    seen = [teacher.image.vit.forward_intermediates(one, indices=[0, 1], norm=False)[1] for one in (decoded, features.images_BCHW)]
    torch.testing.assert_close(found, by_hand(*seen), rtol=0, atol=1e-8)
    assert found.min() > 0.01


def test_a_picture_is_at_no_distance_from_itself():
    house, teacher = towers()
    features = Features(house, a_batch(), MASK, teacher=teacher)
    assert Perceptual(house)(features, features.images_BCHW).abs().max() < 1e-20


@pytest.mark.parametrize("normalise", [True, False])
def test_a_perfect_prediction_is_seen_as_the_original_with_each_patchs_own_mean_and_deviation(normalise):
    house, teacher = towers()
    pixels = Pixels(house, **SMALL, normalise=normalise, perceptual=Perceptual).double()
    features = Features(house, a_batch(), MASK, teacher=teacher)
    mean, deviation = patch_statistics(features.patches_BNP)
    pixels.decoder = Saying((features.patches_BNP - mean) / deviation if normalise else features.patches_BNP)
    loss = pixels(features, features.batch)
    assert loss.logs["perceptual"] < 1e-20 and loss.logs["masked_mse"] < 1e-20


def test_the_decoded_picture_is_the_visible_patches_and_the_predicted_ones():
    house, teacher = towers()
    pixels, seen = Pixels(house, **SMALL, normalise=False, perceptual=Perceptual).double(), []
    pixels.perceptual.register_forward_pre_hook(lambda module, given: seen.append(given[1]))
    features = Features(house, a_batch(), MASK, teacher=teacher)
    pixels(features, features.batch)
    hidden_BN1 = features.masking.hidden_BN()[..., None].bool()
    expected = torch.where(hidden_BN1, pixels.decoder(features.masked, features.masking), features.patches_BNP)
    torch.testing.assert_close(house.image.patchify(seen[0]), expected, rtol=0, atol=1e-12)


def test_its_gradient_reaches_the_encoder_as_differences_say_and_never_the_teacher():
    house, teacher = towers()
    pixels = stirred(Pixels(house, **SMALL, perceptual=partial(Perceptual, weight=5.0)).double())
    batch = a_batch()

    def value() -> torch.Tensor:
        loss = pixels(Features(house, batch, MASK, teacher=teacher), batch)
        assert torch.allclose(loss.value, loss.logs["masked_mse"] + 5 * loss.logs["perceptual"])
        return loss.value

    value().backward()
    for weight in (house.image.vit.blocks[0].attn.qkv.weight, pixels.decoder.decoder_pred.weight):
        check_difference(weight, lambda: value().item())
    assert all(weight.grad is None for weight in teacher.parameters())


def check_difference(weight: torch.Tensor, value) -> None:
    """The gradient in a random direction is the difference quotient."""
    along = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3), dtype=weight.dtype)
    expected, step = (weight.grad * along).sum().item(), 1e-6
    with torch.no_grad():
        weight += step * along
        above = value()
        weight -= 2 * step * along
        below = value()
        weight += step * along
    assert abs(expected) > 1e-6
    assert (above - below) / (2 * step) == pytest.approx(expected, rel=1e-4)


def test_validation_measures_it_beside_the_loss_which_stays_the_squared_error():
    house, teacher = towers()
    torch.manual_seed(1)
    plain = Pixels(house, **SMALL).double().eval()
    torch.manual_seed(1)
    both = Pixels(house, **SMALL, perceptual=Perceptual).double().eval()
    with torch.no_grad():
        one, two = (part(Features(house, a_batch(), MASK, teacher=teacher), a_batch()) for part in (plain, both))
    assert one.value == two.value == two.logs["masked_mse"] and two.logs["perceptual"] > 0
    assert two.logs.keys() - one.logs.keys() == {"perceptual"}


def test_without_a_teacher_the_run_is_told_to_keep_one():
    with pytest.raises(ValueError, match=r"model\.teacher None given, but an objective learns from it; set it to \.995"):
        Pretrainer(an_image(), MASK, {"pixels": partial(Pixels, **SMALL, perceptual=Perceptual)}, AdamW(base_lr=1e-3))


def test_a_named_model_is_frozen_sees_its_own_normalisation_and_needs_no_teacher():
    torch.manual_seed(0)
    house = Towers(an_image())
    part = Perceptual(house, name="test_resnet", pretrained=False).train()
    assert part.views == () and not any(weight.requires_grad for weight in part.parameters())
    assert not any(module.training for module in part.net.modules())
    features = Features(house, a_batch(), MASK)
    decoded = (features.images_BCHW + 0.3 * torch.randn_like(features.images_BCHW)).requires_grad_()
    found = part(features, decoded)
    found.sum().backward()
    config = part.net.pretrained_cfg
    mean, std = (torch.tensor(config[kind]).view(1, 3, 1, 1) for kind in ("mean", "std"))
    pixels = [(one * house.image.std + house.image.mean - mean) / std for one in (decoded.detach(), features.images_BCHW)]
    torch.testing.assert_close(found.detach(), by_hand(*(part.net(one) for one in pixels)), rtol=0, atol=1e-4)
    assert decoded.grad.abs().max() > 0


def test_a_folder_of_timms_is_seen_as_the_encoder_that_it_holds(tmp_path):
    torch.manual_seed(0)
    house = Towers(stirred(an_image()))
    write(house.image, tmp_path / "timm")
    named = Perceptual(house, name=str(tmp_path / "timm"), layers=[0, 1])
    features = Features(house, a_batch(), MASK, teacher=copied(house))
    decoded = features.images_BCHW + 0.3 * torch.randn_like(features.images_BCHW)
    torch.testing.assert_close(named(features, decoded), Perceptual(house, layers=[0, 1])(features, decoded), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"weight": -1}, "perceptual weight -1 given, allowed is 0 or more"),
        ({"layers": [2]}, r"perceptual layers \[2\] given, the encoder's blocks are numbered 0 to 1"),
        ({"layers": []}, r"perceptual layers \[\] given"),
        ({"name": "resnet81"}, "perceptual model 'resnet81' is neither a model of timm nor a folder with its config.json; did you mean"),
        ({"name": "test_resnet", "layers": [9], "pretrained": False}, "perceptual model test_resnet cannot be had: "),
        ({"name": "test_vit", "layers": [9], "pretrained": False}, "perceptual model test_vit cannot be had: "),
    ],
    ids=str,
)
def test_mistakes_are_told_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as told:
        Perceptual(Towers(an_image()), **options)
    assert "\n" not in str(told.value)


def test_weights_that_cannot_be_fetched_are_told_in_one_line(monkeypatch):
    def create(*names, pretrained=False, **options):
        raise OSError("no route\nto the hub")

    house = Towers(an_image())
    monkeypatch.setattr(timm, "create_model", create)
    message = "perceptual model resnet18 cannot be had: OSError: no route to the hub; set pretrained to false, or name a folder"
    with pytest.raises(ValueError, match=message):
        Perceptual(house, name="resnet18")
