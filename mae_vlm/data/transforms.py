"""Crops, flips and resizing of pictures ``[C, H, W]``, uint8 or uint16; what is random is a pure function of a 64-bit key.

Everything is resampled in bicubic with antialiasing, as in the MAE recipe (He et al., 2022, arXiv 2111.06377, appendix A.1;
their crop scale is (0.2, 1), not the (0.08, 1) of supervised training). Pixels stay integers: they are normalised on the device.
A transform first says what it would do to a picture of some size (a ``Crop``), so that a decoder can read no more than that.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mae_vlm.tokens.chance import key_of
from mae_vlm.types import Frame

_TRIES = 10
_STEP = 2.0**-32


def pair(key: int, counter: int) -> tuple[float, float]:
    """Two numbers in [0, 1) of 32 bits each, from one hash."""
    word = key_of(key, counter)
    return (word >> 32 & 0xFFFF_FFFF) * _STEP, (word & 0xFFFF_FFFF) * _STEP


class Window(NamedTuple):
    """A rectangle of pixels: its upper left corner and its size."""

    top: int
    left: int
    height: int
    width: int


class Crop(NamedTuple):
    """What becomes of a picture: this window of it, at ``height`` x ``width``, mirrored left to right or not.

    ``exact`` asks for every pixel of the window; otherwise a file may be decoded at a reduced size that is no smaller. With a ``canvas``
    (height, width) the result is its upper left part, and the rest is filled up.
    """

    window: Window
    height: int
    width: int
    mirrored: bool = False
    exact: bool = False
    canvas: tuple[int, int] | None = None

    def frame(self, height: int, width: int) -> Frame:
        """How the result lies in the whole picture of ``height`` x ``width`` pixels."""
        return Frame(height, width, *self.window, self.height, self.width, self.mirrored)


class Transform(Protocol):
    """What brings pictures to one size."""

    def plan(self, height: int, width: int, key: int, /) -> Crop:
        """The crop of a picture of ``height`` x ``width`` pixels that belongs to ``key``."""
        ...


def apply(image_CHW: Tensor, crop: Crop) -> Tensor:
    """The crop of a whole picture."""
    top, left, height, width = crop.window
    cut_CHW = resample(image_CHW[:, top : top + height, left : left + width], crop.height, crop.width)
    return cut_CHW.flip(2) if crop.mirrored else cut_CHW


def filled(image_CHW: Tensor, crop: Crop) -> Tensor:
    """The result of a crop on its canvas, where it has one: what is not covered is mid-grey, about zero once pictures are normalised."""
    if crop.canvas is None or image_CHW.shape[1:] == crop.canvas:
        return image_CHW
    grey = 127 if image_CHW.dtype == torch.uint8 else 32767
    canvas_CHW = torch.full((len(image_CHW), *crop.canvas), grey, dtype=image_CHW.dtype)
    canvas_CHW[:, : crop.height, : crop.width] = image_CHW
    return canvas_CHW


def resample(image_CHW: Tensor, height: int, width: int, span: tuple[float, float] | None = None) -> Tensor:
    """The picture at another size, bicubic and antialiased, of the same type (rounded and clamped).

    ``span`` are the rows and columns, from the upper left, that the result covers: all of them unless given.
    """
    rows, columns = span or image_CHW.shape[1:]
    if image_CHW.shape[1:] == (height, width) == (rows, columns):
        return image_CHW
    scales = height / rows, width / columns
    if image_CHW.dtype != torch.uint8:
        values = _bicubic(image_CHW.float(), height, width, *scales)
        return values.round_().clamp_(0, 65535).to(image_CHW.dtype)
    # torch's fast path for bytes takes up to 4 channels
    parts = [_bicubic(part, height, width, *scales) for part in torch.split(image_CHW, 3)] if len(image_CHW) > 4 else []
    return torch.cat(parts) if parts else _bicubic(image_CHW, height, width, *scales)


def _bicubic(image_CHW: Tensor, height: int, width: int, down: float, across: float) -> Tensor:
    # strides that torch takes for channels-last, which decoders give: it then resamples without splitting the channels
    image_1CHW = image_CHW.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
    resized: Tensor = torch.ops.aten._upsample_bicubic2d_aa(image_1CHW, (height, width), False, down, across)[0]
    return resized


def reduction(window: Window, height: int, width: int, coarsest: int = 8) -> int:
    """The largest power of two by which a window may be reduced and still be no smaller than ``height`` x ``width``."""
    factor = 1
    while factor < coarsest and window.height >= 2 * factor * height and window.width >= 2 * factor * width:
        factor *= 2
    return factor


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
        return apply(image_CHW, self.plan(image_CHW.shape[1], image_CHW.shape[2], key))

    def plan(self, height: int, width: int, key: int) -> Crop:
        """The crop that belongs to this key."""
        return Crop(self.window(height, width, key), *self.size, self.flips(key))

    def flips(self, key: int) -> bool:
        """Whether the picture of this key is mirrored left to right."""
        return pair(key, 0)[0] < self.flip

    def window(self, height: int, width: int, key: int) -> Window:
        """Where in a picture of ``height`` x ``width`` pixels it is cut out.

        Its corner is a multiple of the factor by which a JPEG may be reduced for it: boxes and masks then move along exactly.
        """
        low, high = self._logs
        for attempt in range(_TRIES):
            share, bend = pair(key, 2 * attempt + 1)
            area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * share)
            shape = math.exp(low + (high - low) * bend)
            w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
            if 0 < w <= width and 0 < h <= height:
                down, across = pair(key, 2 * attempt + 2)
                free = Window(int(down * (height - h + 1)), int(across * (width - w + 1)), h, w)
                factor = reduction(free, *self.size)
                return free._replace(top=free.top // factor * factor, left=free.left // factor * factor)
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
        if image_CHW.shape[1:] == self.size:
            return image_CHW
        return apply(image_CHW, self.plan(image_CHW.shape[1], image_CHW.shape[2], key))

    def plan(self, height: int, width: int, key: int = 0) -> Crop:
        """The largest central window of the right shape."""
        h, w = self.size
        across, down = min(width, max(1, round(height * w / h))), min(height, max(1, round(width * h / w)))
        return Crop(Window((height - down) // 2, (width - across) // 2, down, across), h, w, exact=True)
