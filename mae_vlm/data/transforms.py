"""Crops, flips and resizing of uint8 pictures ``[C, H, W]``; what is random is a pure function of a 64-bit key.

Everything is resampled in bicubic with antialiasing, as in the MAE recipe (He et al., 2022, arXiv 2111.06377, appendix A.1;
their crop scale is (0.2, 1), not the (0.08, 1) of supervised training). Pixels stay uint8: they are normalised on the device.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from mae_vlm.tokens.chance import key_of

_TRIES = 10
_STEP = 2.0**-32


def _pair(key: int, counter: int) -> tuple[float, float]:
    """Two numbers in [0, 1) of 32 bits each, from one hash."""
    word = key_of(key, counter)
    return (word >> 32 & 0xFFFF_FFFF) * _STEP, (word & 0xFFFF_FFFF) * _STEP


def resample(image_CHW: Tensor, height: int, width: int) -> Tensor:
    """The whole picture at another size, bicubic and antialiased, still uint8 (rounded and clamped)."""
    if image_CHW.shape[1:] == (height, width):
        return image_CHW
    return F.interpolate(image_CHW[None], (height, width), mode="bicubic", antialias=True, align_corners=False)[0]


class Window(NamedTuple):
    """A rectangle of pixels: its upper left corner and its size."""

    top: int
    left: int
    height: int
    width: int


class Augment:
    """A random resized crop to ``size`` (height, width) and a horizontal flip: the same for the same key, anywhere.

    ``scale`` bounds the crop's share of the area, ``ratio`` its width / height relative to that of ``size`` (log-uniform).
    Follows the rule of "Going deeper with convolutions" (Szegedy et al., 2015, section 6) as torchvision applies it: ten tries,
    then the largest central crop within ``ratio``.

    Raises:
        ValueError: scale, ratio or flip out of range.
    """

    def __init__(
        self,
        size: tuple[int, int],
        scale: tuple[float, float] = (0.2, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
    ) -> None:
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"crop_scale {tuple(scale)} must be two shares of the area, 0 < smallest <= largest <= 1, as in [0.2, 1.0]")
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"crop ratio {tuple(ratio)} must be 0 < smallest <= largest")
        if not 0 <= flip <= 1:
            raise ValueError(f"flip {flip} is a probability; use a number from 0 to 1")
        self.size, self.scale, self.flip = size, scale, flip
        shape = size[1] / size[0]
        self._logs = (math.log(ratio[0] * shape), math.log(ratio[1] * shape))

    def __call__(self, image_CHW: Tensor, key: int) -> Tensor:
        top, left, height, width = self.window(image_CHW.shape[1], image_CHW.shape[2], key)
        crop_CHW = image_CHW[:, top : top + height, left : left + width]
        crop_CHW = resample(crop_CHW, *self.size)
        return crop_CHW.flip(2) if self.flips(key) else crop_CHW

    def flips(self, key: int) -> bool:
        """Whether the picture of this key is mirrored left to right."""
        return _pair(key, 0)[0] < self.flip

    def window(self, height: int, width: int, key: int) -> Window:
        """The crop of a picture of ``height`` x ``width`` pixels that belongs to this key."""
        low, high = self._logs
        for attempt in range(_TRIES):
            share, bend = _pair(key, 2 * attempt + 1)
            area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * share)
            shape = math.exp(low + (high - low) * bend)
            w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
            if 0 < w <= width and 0 < h <= height:
                down, across = _pair(key, 2 * attempt + 2)
                return Window(int(down * (height - h + 1)), int(across * (width - w + 1)), h, w)
        return self._central(height, width)

    def _central(self, height: int, width: int) -> Window:
        shape = min(max(width / height, math.exp(self._logs[0])), math.exp(self._logs[1]))
        w, h = min(width, max(1, round(height * shape))), min(height, max(1, round(width / shape)))
        return Window((height - h) // 2, (width - w) // 2, h, w)


class Resize:
    """The largest central part of the shape of ``size`` (height, width), at that size: nothing random, for validation.

    For square sizes this is "short side to size, then centre crop".
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def __call__(self, image_CHW: Tensor, key: int = 0) -> Tensor:
        height, width = self.size
        if image_CHW.shape[1:] == self.size:
            return image_CHW
        across, down = image_CHW.shape[2], image_CHW.shape[1]
        w, h = min(across, max(1, round(down * width / height))), min(down, max(1, round(across * height / width)))
        top, left = (down - h) // 2, (across - w) // 2
        return resample(image_CHW[:, top : top + h, left : left + w], height, width)
