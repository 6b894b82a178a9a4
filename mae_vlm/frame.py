"""Where a prepared picture comes from, and what is known about it in its own pixels.

Letters: N objects, H, W pixels of the prepared picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Frame(NamedTuple):
    """How a prepared picture lies in the original one, all in pixels.

    The window ``top, left, window_height, window_width`` of the original (``height`` x ``width``, as it is shown) fills the first ``rows``
    and ``columns`` of the prepared picture, mirrored left to right or not; what is right of and below them is padding.
    """

    height: int
    width: int
    top: int
    left: int
    window_height: int
    window_width: int
    rows: int
    columns: int
    mirrored: bool = False

    def inward(self, boxes_N4: Tensor) -> Tensor:
        """Boxes (left, top, right, bottom) of the original, in pixels of the prepared picture; not clipped."""
        down, across = self.rows / self.window_height, self.columns / self.window_width
        left, top, right, bottom = boxes_N4.unbind(-1)
        left, right = (left - self.left) * across, (right - self.left) * across
        if self.mirrored:
            left, right = self.columns - right, self.columns - left
        return torch.stack([left, (top - self.top) * down, right, (bottom - self.top) * down], dim=-1)

    def outward(self, boxes_N4: Tensor) -> Tensor:
        """Boxes of the prepared picture in pixels of the original, clipped to it; undoes :meth:`inward` within the picture."""
        down, across = self.window_height / self.rows, self.window_width / self.columns
        left, top, right, bottom = boxes_N4.unbind(-1)
        if self.mirrored:
            left, right = self.columns - right, self.columns - left
        left, right = (side * across + self.left for side in (left, right))
        top, bottom = (side * down + self.top for side in (top, bottom))
        across_N2, down_N2 = (torch.stack(pair, -1) for pair in ((left, right), (top, bottom)))
        across_N2, down_N2 = across_N2.clamp(0, self.width), down_N2.clamp(0, self.height)
        return torch.stack([across_N2[..., 0], down_N2[..., 0], across_N2[..., 1], down_N2[..., 1]], dim=-1)


def changed(nouns: Any, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """The fields that are tensors, changed."""
    pairs = ((f.name, getattr(nouns, f.name)) for f in fields(nouns))
    return {name: change(value) for name, value in pairs if isinstance(value, Tensor)}


class Whole(NamedTuple):
    """All objects of an original picture, also those that are too small to be seen in the prepared one.

    ``masks`` are bits, uint8 ``[objects, ceil(height * width / 8)]``, the first pixel the highest bit of the first byte, row by row;
    ``classes`` int64 and ``crowds`` bool ``[objects]``.
    """

    masks: Tensor
    classes: Tensor
    crowds: Tensor


@dataclass
class Target:
    """What is known about one prepared picture of ``H`` x ``W`` pixels, in those pixels; what nobody asked for is None.

    Attributes:
        frame: how it lies in the original picture.
        boxes: float32 ``[objects, 4]``: left, top, right, bottom, clipped to the picture; objects that the crop cut away are not there.
        classes: int64 ``[objects]``.
        crowds: bool ``[objects]``: the region holds many objects in one.
        masks: bool ``[objects, H, W]``.
        semantic: int16 ``[H, W]``: class numbers, -1 where nothing is known, in padding too.
        whole: the objects in the original's own pixels, of pictures that are prepared whole.
    """

    frame: Frame
    boxes: Tensor | None = None
    classes: Tensor | None = None
    crowds: Tensor | None = None
    masks: Tensor | None = None
    semantic: Tensor | None = None
    whole: Whole | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> Target:
        """The same with every tensor changed."""
        whole = None if self.whole is None else Whole(*map(change, self.whole))
        return replace(self, **changed(self, change), whole=whole)
