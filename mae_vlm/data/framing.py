"""Whole pictures, their shape kept, on a canvas of one size: for heads that find things and must not lose what lies at the edge."""

from __future__ import annotations

import math

from mae_vlm.data.transforms import Crop, Window, pair, reduction


class Fit:
    """The whole picture, as large as it fits into ``size`` (height, width), the rest filled up: nothing random, for validation."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def plan(self, height: int, width: int, key: int = 0) -> Crop:
        """The crop that is the whole picture."""
        rows, columns = fitted(height, width, self.size)
        return Crop(Window(0, 0, height, width), rows, columns, exact=True, canvas=self.size)


class Zoom:
    """The picture at a random size on a canvas of ``size`` (height, width), its shape kept: large-scale jitter, and a horizontal flip.

    The size is that at which it just fits, times a factor drawn log-uniformly from ``scale``. A larger one is cut to the canvas at a random
    place, a smaller one leaves a part of it empty. Source: Ghiasi et al., 2021, "Simple Copy-Paste" (arXiv 2012.07177), section 3, who draw
    the factor uniformly from 0.1 to 2.

    Raises:
        ValueError: scale or flip out of range.
    """

    def __init__(self, size: tuple[int, int], scale: tuple[float, float] = (0.5, 2.0), flip: float = 0.5) -> None:
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f"zoom {tuple(scale)} must be two factors of the size, 0 < smallest <= largest, as in [0.5, 2.0]")
        if not 0 <= flip <= 1:
            raise ValueError(f"flip {flip} is a probability; use a number from 0 to 1")
        self.size, self.scale, self.flip = size, scale, flip

    def plan(self, height: int, width: int, key: int) -> Crop:
        """The crop that belongs to this key."""
        flip, draw = pair(key, 0)
        low, high = (math.log(factor) for factor in self.scale)
        factor = math.exp(low + (high - low) * draw)
        rows, columns = fitted(height, width, self.size, factor)
        down, across = pair(key, 1)
        top, tall, rows = _part(height, rows, self.size[0], down)
        left, wide, columns = _part(width, columns, self.size[1], across)
        window = Window(top, left, tall, wide)
        step = reduction(window, rows, columns)  # its corner falls on whole pixels of a JPEG that is decoded at a reduced size
        window = window._replace(top=top // step * step, left=left // step * step)
        return Crop(window, rows, columns, flip < self.flip, canvas=self.size)


def fitted(height: int, width: int, size: tuple[int, int], factor: float = 1.0) -> tuple[int, int]:
    """The size (rows, columns) at which a picture just fits into ``size``, times ``factor``: at least one pixel each."""
    scale = min(size[0] / height, size[1] / width) * factor
    return max(1, round(height * scale)), max(1, round(width * scale))


def _part(length: int, scaled: int, room: int, draw: float) -> tuple[int, int, int]:
    """Of a side of ``length`` pixels that becomes ``scaled``: the beginning and length of the part that fits, and what it becomes."""
    if scaled <= room:
        return 0, length, scaled
    part = max(1, round(length * room / scaled))
    return int(draw * (length - part + 1)), part, room
