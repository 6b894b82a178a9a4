"""Distortions of colour and sharpness, on the device, as a pure function of each picture's key.

Letters: B pictures, C channels, H, W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mae_vlm.tokens.chance import uniform

_STREAM = 41
_TO_GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Distortion:
    """How much a second view of a picture differs in colour (SimCLR, arXiv 2002.05709, appendix A).

    Attributes:
        strength: brightness, contrast and saturation change by a factor of up to 1 +- .8 times this, in 8 of 10 pictures; 0 is off.
        hue: likewise, the hue by up to .2 times ``strength`` of the colour circle. Off where words are learned: they name colours.
        grey: share of pictures that lose their colours; off where words are learned.
        blur: share of pictures that are blurred.
    """

    strength: float = 0.5
    hue: bool = True
    grey: float = 0.2
    blur: float = 0.0


def distort(images_BCHW: Tensor, keys_B: Tensor, how: Distortion) -> Tensor:
    """Pictures in [0, 1] (float), distorted: hue, saturation and grey only of 3 channels."""
    chance = uniform(keys_B, 8, _STREAM).to(images_BCHW.dtype)[:, :, None, None, None]
    jitters = chance[:, 0] < 0.8
    factors = 1 + 0.8 * how.strength * (2 * chance[:, 1:4] - 1) * jitters[:, None]
    images_BCHW = images_BCHW * factors[:, 0]
    images_BCHW = _between(images_BCHW.mean((1, 2, 3), keepdim=True), images_BCHW, factors[:, 1])
    if images_BCHW.shape[1] == 3:
        images_BCHW = _between(_grey(images_BCHW), images_BCHW, factors[:, 2])
        if how.hue:
            images_BCHW = _turned(images_BCHW, 0.2 * how.strength * (2 * chance[:, 4] - 1) * jitters)
        images_BCHW = torch.where(chance[:, 5] < how.grey, _grey(images_BCHW), images_BCHW)
    if how.blur:
        images_BCHW = torch.where(chance[:, 6] < how.blur, _blurred(images_BCHW, 0.1 + 1.9 * chance[:, 7]), images_BCHW)
    return images_BCHW.clamp(0, 1)


def _between(one: Tensor, other: Tensor, share: Tensor) -> Tensor:
    return one + (other - one) * share


def _grey(images_BCHW: Tensor) -> Tensor:
    weights = images_BCHW.new_tensor(_TO_GREY).view(1, 3, 1, 1)
    return (images_BCHW * weights).sum(1, keepdim=True).expand_as(images_BCHW)


def _turned(images_BCHW: Tensor, turn_B111: Tensor) -> Tensor:
    """Hues turned by a share of the circle: a rotation of the plane of colours (YIQ), which keeps the grey as it is."""
    to_yiq = images_BCHW.new_tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    angle_B = turn_B111.flatten() * 2 * torch.pi
    turn_B33 = torch.zeros(len(angle_B), 3, 3, dtype=images_BCHW.dtype, device=images_BCHW.device)
    turn_B33[:, 0, 0] = 1
    turn_B33[:, 1, 1] = turn_B33[:, 2, 2] = angle_B.cos()
    turn_B33[:, 1, 2], turn_B33[:, 2, 1] = -angle_B.sin(), angle_B.sin()
    whole_B33 = torch.linalg.inv(to_yiq.float()).to(images_BCHW.dtype) @ turn_B33 @ to_yiq
    return torch.einsum("bij,bjhw->bihw", whole_B33, images_BCHW)


def _blurred(images_BCHW: Tensor, sigma_B111: Tensor, reach: int = 4) -> Tensor:
    """A Gaussian blur of a deviation in pixels for each picture, rows first, then columns."""
    batch, channels, height, width = images_BCHW.shape
    place = torch.arange(-reach, reach + 1, device=images_BCHW.device, dtype=images_BCHW.dtype)
    kernel_BK = torch.softmax(-(place**2) / (2 * sigma_B111.flatten()[:, None] ** 2), dim=1).repeat_interleave(channels, 0)
    folded = functional.pad(images_BCHW.reshape(1, batch * channels, height, width), [reach] * 4, mode="replicate")
    rows = functional.conv2d(folded, kernel_BK[:, None, :, None], groups=batch * channels)
    return functional.conv2d(rows, kernel_BK[:, None, None, :], groups=batch * channels).view_as(images_BCHW)
