"""Promises of mae_vlm.objectives.parts.adversarial, and of the reconstruction with it. Letters as there."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from captioned import a_batch, an_image, stirred
from torch.nn import functional

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.objectives.parts.adversarial import Adversarial
from mae_vlm.objectives.pixels import Pixels
from mae_vlm.tokens.masking import RandomMask

MASK = RandomMask(0.75)
OPTIONS = {"width": 4, "weight": 0.5, "ramp": 1}
KINDS = pytest.mark.parametrize("kind", ["hinge", "non_saturating"])
# what each side minimises, of the logits of real and of decoded pictures
DISCRIMINATORS = {
    "hinge": lambda real, fake: (functional.relu(1 - real) + functional.relu(1 + fake)).mean(),
    "non_saturating": lambda real, fake: (torch.log(1 + torch.exp(-real)) + torch.log(1 + torch.exp(fake))).mean(),
}
DECODERS = {"hinge": lambda fake: -functional.relu(1 + fake).mean(), "non_saturating": lambda fake: torch.log(1 + torch.exp(-fake)).mean()}


def a_pair(kind: str, **options) -> tuple[Towers, Pixels]:
    torch.manual_seed(0)
    house = stirred(Towers(an_image()).double())
    pixels = Pixels(house, width=16, depth=1, heads=2, adversarial=partial(Adversarial, loss=kind, **OPTIONS | options))
    return house, stirred(pixels.double())


def quotient(weight: torch.Tensor, value) -> tuple[float, float]:
    """The gradient along a random direction, and the difference quotient of ``value`` there."""
    along = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3), dtype=weight.dtype)
    step, found = 1e-6, []
    with torch.no_grad():
        for move in (step, -2 * step):
            weight += move * along
            found.append(float(value()))
        weight += step * along
    return (weight.grad * along).sum().item(), (found[0] - found[1]) / (2 * step)


@KINDS
def test_encoder_and_decoder_learn_to_fool_and_the_discriminator_learns_to_tell(kind):
    house, pixels = a_pair(kind)
    batch, seen = a_batch(), []
    pixels.adversarial.register_forward_pre_hook(lambda module, given: seen.append(given))

    def step():
        seen.clear()
        loss = pixels(Features(house, batch, MASK), batch)
        return loss, (pixels.adversarial.logits(pictures) for pictures in seen[0])

    def told() -> torch.Tensor:
        _, (real, fake) = step()
        return DISCRIMINATORS[kind](real, fake)

    def fooling() -> torch.Tensor:
        loss, (_, fake) = step()
        return loss.logs["masked_mse"] + OPTIONS["weight"] * DECODERS[kind](fake)

    loss, _ = step()
    torch.testing.assert_close(loss.logs["adversarial"], told())
    torch.testing.assert_close(loss.value, loss.logs["masked_mse"] + loss.logs["adversarial"])
    loss.value.backward()
    for weight in (house.image.vit.blocks[0].attn.qkv.weight, pixels.decoder.decoder_pred.weight):
        ours, reference = quotient(weight, fooling)
        assert ours == pytest.approx(reference, rel=1e-4) and abs(ours) > 1e-6
    for layer in pixels.adversarial.layers:
        ours, reference = quotient(layer.weight, told)
        assert ours == pytest.approx(reference, rel=1e-4) and abs(ours) > 1e-6


@KINDS
def test_only_the_side_of_the_pictures_is_turned(kind):
    _, pixels = a_pair(kind)
    part, pictures = pixels.adversarial, torch.randn(2, 4, 3, 32, 32, dtype=torch.float64)
    decoded = pictures[1].clone().requires_grad_()
    part(pictures[0], decoded).loss.mean().backward()
    plain = pictures[1].clone().requires_grad_()
    DECODERS[kind](part.logits(plain)).backward()
    torch.testing.assert_close(decoded.grad, OPTIONS["weight"] * plain.grad)
    assert decoded.grad.abs().max() > 0


@KINDS
def test_what_is_said_of_a_picture_is_its_own_whatever_the_batch(kind):
    _, pixels = a_pair(kind)
    real, fake = torch.randn(2, 5, 3, 32, 32, dtype=torch.float64)
    together = pixels.adversarial(real, fake)
    for number in range(5):
        alone = pixels.adversarial(real[number : number + 1], fake[number : number + 1])
        for one, all_B in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], all_B[number])


def test_its_weight_rises_over_the_ramp_and_is_kept_in_checkpoints():
    part = Adversarial(Towers(an_image()), weight=0.8, ramp=4)
    strengths = []
    for _ in range(6):
        strengths.append(part.strength().item())
        part.after_step()
    assert strengths == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])
    other = Adversarial(Towers(an_image()), weight=0.8, ramp=12)
    other.load_state_dict(part.state_dict())
    assert other.strength().item() == pytest.approx(0.8 * 7 / 12)
    assert Adversarial(Towers(an_image()), weight=0.8, ramp=0).strength().item() == pytest.approx(0.8)


def test_the_objective_counts_the_steps_of_its_discriminator():
    _, pixels = a_pair("hinge", ramp=10)
    pixels.after_step()
    assert pixels.adversarial.steps == 1


@KINDS
def test_validation_tells_of_it_beside_the_loss_which_stays_the_squared_error(kind):
    house, pixels = a_pair(kind)
    batch = a_batch()
    with torch.no_grad():
        loss = pixels.eval()(Features(house, batch, MASK), batch)
    assert loss.value == loss.logs["masked_mse"] and loss.logs["adversarial"] > 0 and 0 <= loss.logs["fooled"] <= 1


def test_it_becomes_able_to_tell_noise_from_pictures():
    torch.manual_seed(0)
    part = Adversarial(Towers(an_image()), width=8)
    step = torch.optim.AdamW(part.parameters(), 3e-3)
    for _ in range(60):
        real, fake = torch.linspace(-1, 1, 32).expand(8, 3, 32, 32) * torch.rand(8, 3, 1, 1), torch.randn(8, 3, 32, 32)
        step.zero_grad()
        part(real, fake).loss.mean().backward()
        step.step()
    assert part(real, fake).fooled.mean() < 0.05 and (part.logits(real) > 0).float().mean() > 0.95


@pytest.mark.parametrize(
    "options, message",
    [
        ({"loss": "wasserstein"}, "adversarial loss 'wasserstein', weight 0.01, ramp 1000 given: hinge or non_saturating, and 0 or more"),
        ({"weight": -1}, "weight -1"),
        ({"ramp": -1}, "ramp -1"),
        ({"depth": 6}, "adversarial width 32, depth 6 given, allowed are at least 1 each, and 32 x 32 pixels must hold a window"),
        ({"width": 0}, "width 0"),
    ],
    ids=str,
)
def test_mistakes_are_told_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as told:
        Adversarial(Towers(an_image()), **options)
    assert "\n" not in str(told.value)
