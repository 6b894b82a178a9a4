"""A discriminator that tells decoded pictures from real ones, trained by the same optimizer against the rest.

Letters: B pictures, C channels, H, W pixels, h, w windows down and across.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mae_vlm.encoders.towers import Towers

LOSSES = ("hinge", "non_saturating")
_SLOPE = 0.2


class Opposed(NamedTuple):
    """What the discriminator makes of each picture, ``[B]`` each.

    Attributes:
        loss: to be minimised by all: the discriminator's own, of which the reversal turns what reaches the decoder.
        discriminator: its loss, detached.
        fooled: share of the windows of the decoded picture that it takes for real.
    """

    loss: Tensor
    discriminator: Tensor
    fooled: Tensor


class Adversarial(nn.Module):
    """A patch discriminator (Isola et al. 2017, arXiv 1611.07004, section 3.2.2) behind a gradient reversal layer (Ganin & Lempitsky 2015,
    arXiv 1409.7495): one sum and one optimizer train it to tell apart, and the decoder and encoder to be mistaken.

    Every logit looks at a window of the picture. Without batch statistics: what it says of a picture is the same on any number of
    processes. It learns at full rate; ``weight`` is what the reversal multiplies by, rising to it over the first ``ramp`` optimizer steps.

    Args:
        towers: of the pictures' size and channels.
        weight: of the reversed gradient, beside the squared error's.
        loss: ``hinge`` (Lim & Ye 2017, arXiv 1705.02894): the decoder minimises -max(0, 1 + D), and is left in peace where it is found out
            with certainty; ``non_saturating`` (Goodfellow et al. 2014, arXiv 1406.2661, section 3): it minimises log(1 + exp(-D)),
            through a second pass in which the discriminator's weights rest.
        ramp: optimizer steps until the whole weight counts; 0 or 1 is from the start.
        width, depth: channels of the first convolution, each of the following has twice as many, and how many there are, of stride 2.

    Raises:
        ValueError: an option out of its range, or pictures too small for so many convolutions.
    """

    steps: Tensor

    def __init__(
        self, towers: Towers, weight: float = 0.01, loss: str = "hinge", ramp: int = 1000, width: int = 32, depth: int = 3
    ) -> None:
        super().__init__()
        space = towers.image.space
        if loss not in LOSSES or weight < 0 or ramp < 0:
            raise ValueError(f"adversarial loss {loss!r}, weight {weight}, ramp {ramp} given: {' or '.join(LOSSES)}, and 0 or more")
        if width < 1 or depth < 1 or min(space.height, space.width) < 2**depth:
            most = f"at least 1 each, and {space.height} x {space.width} pixels must hold a window of 2 to the depth"
            raise ValueError(f"adversarial width {width}, depth {depth} given, allowed are {most}")
        self.weight, self.kind, self.ramp = weight, loss, ramp
        sizes = [space.channels, *(width * 2**layer for layer in range(depth))]
        self.layers = nn.ModuleList(nn.Conv2d(*pair, 4, 2, 1) for pair in pairwise(sizes))
        self.layers.append(nn.Conv2d(sizes[-1], 1, 1))
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, _SLOPE)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        passes = 2 if loss == "hinge" else 3  # of real pictures and of decoded ones, each thrice its forward
        self.flops = 3 * passes * _flops(self.layers, space.height, space.width)

    def forward(self, original_BCHW: Tensor, decoded_BCHW: Tensor) -> Opposed:
        """Of real and decoded normalised pictures."""
        reversed_BCHW = Reversal.apply(decoded_BCHW, self.strength())
        real_Bhw = self._told(original_BCHW)
        if self.kind == "hinge":
            fake_Bhw = self._told(reversed_BCHW)
            loss_B = (functional.relu(1 - real_Bhw) + functional.relu(1 + fake_Bhw)).mean(dim=(1, 2))
            return Opposed(loss_B, loss_B.detach(), _fooled(fake_Bhw))
        fake_Bhw = self._told(decoded_BCHW.detach())
        own_B = (functional.softplus(-real_Bhw) + functional.softplus(fake_Bhw)).mean(dim=(1, 2))
        against_B = functional.softplus(-self._told(reversed_BCHW, resting=True)).mean(dim=(1, 2))
        return Opposed(own_B - against_B + against_B.detach(), own_B.detach(), _fooled(fake_Bhw))

    def strength(self) -> Tensor:
        """What the reversal multiplies by at this step."""
        return self.weight * ((self.steps + 1) / max(1, self.ramp)).clamp(max=1)

    def after_step(self) -> None:
        """Count an optimizer step."""
        self.steps += 1

    def logits(self, images_BCHW: Tensor, resting: bool = False) -> Tensor:
        """Above 0 where a window seems real: ``[B, 1, h, w]``; with ``resting`` its weights get no gradient."""
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, nn.Conv2d) and layer.bias is not None
            weight, bias = (layer.weight.detach(), layer.bias.detach()) if resting else (layer.weight, layer.bias)
            last = number == len(self.layers) - 1
            found = functional.conv2d(images_BCHW, weight, bias, 1 if last else 2, 0 if last else 1)
            images_BCHW = found if last else functional.leaky_relu(found, _SLOPE)
        return images_BCHW

    def _told(self, images_BCHW: Tensor, resting: bool = False) -> Tensor:
        logits_Bhw = self.logits(images_BCHW, resting)[:, 0]
        return logits_Bhw.to(torch.promote_types(logits_Bhw.dtype, torch.float32))


class Reversal(torch.autograd.Function):
    """The identity forward, the gradient times ``-strength`` backward."""

    @staticmethod
    def forward(ctx: Any, pictures_BCHW: Tensor, strength: Tensor) -> Tensor:
        ctx.save_for_backward(strength)
        return pictures_BCHW.view_as(pictures_BCHW)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (strength,) = ctx.saved_tensors
        return -strength.to(gradients[0].dtype) * gradients[0], None


def _fooled(fake_Bhw: Tensor) -> Tensor:
    return (fake_Bhw.detach() > 0).to(fake_Bhw.dtype).mean(dim=(1, 2))


def _flops(layers: nn.ModuleList, height: int, width: int) -> int:
    """Operations of its convolutions on one picture, forward: all but the last halve the picture first."""
    count = 0
    for number, layer in enumerate(layers):
        height, width = (height, width) if number == len(layers) - 1 else (height // 2, width // 2)
        count += 2 * height * width * sum(one.numel() for one in layer.parameters() if one.ndim > 1)
    return count
