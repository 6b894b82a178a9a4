"""What is known about the objects of a million pictures, in a few flat arrays; and the rule for boxes that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mae_vlm.types import Sample

_OUT_BY = 1.0  # pixels that a box may stick out without being counted: rounding, and tools that count from 1


@dataclass(frozen=True)
class Objects:
    """The objects of picture ``i`` are the rows ``ends[i - 1]`` to ``ends[i]`` of all arrays.

    Attributes:
        boxes: float32 ``[objects, 4]``: left, top, right, bottom in pixels.
        classes: int32 ``[objects]``.
        crowds: bool ``[objects]``.
        marks: ``[objects, any]``: what leads to an object's mask, as its format says; None where there are no masks.
    """

    ends: NDArray[np.int64]
    boxes: NDArray[np.float32]
    classes: NDArray[np.int32]
    crowds: NDArray[np.bool_]
    marks: NDArray[Any] | None = None

    def rows(self, index: int) -> slice:
        return slice(int(self.ends[index - 1]) if index else 0, int(self.ends[index]))

    def fill(self, sample: Sample, index: int) -> None:
        """Sets boxes, classes and, where one is a crowd, crowds."""
        rows = self.rows(index)
        sample.boxes = torch.from_numpy(self.boxes[rows].copy())
        sample.classes = torch.from_numpy(self.classes[rows].astype(np.int64))
        if self.crowds[rows].any():
            sample.crowds = torch.from_numpy(self.crowds[rows].copy())


def group(
    pictures: int,
    owner_N: NDArray[Any],
    boxes_N4: NDArray[Any],
    classes_N: NDArray[Any],
    crowds_N: NDArray[Any],
    marks_N: NDArray[Any] | None = None,
) -> Objects:
    """Objects sorted by the picture that owns each, ``owner_N`` in [0, pictures); those of one picture stay in their order."""
    order_N = np.argsort(owner_N, kind="stable")
    ends = np.cumsum(np.bincount(owner_N, minlength=pictures)).astype(np.int64)
    marks = None if marks_N is None else marks_N[order_N]
    boxes, crowds = boxes_N4[order_N].astype(np.float32), crowds_N[order_N].astype(np.bool_)
    return Objects(ends, boxes, classes_N[order_N].astype(np.int32), crowds, marks)


def fit_boxes(
    boxes_N4: NDArray[np.float64], sizes_N2: NDArray[Any], tell: Callable[[str, int, str], None]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Boxes (left, top, right, bottom) cut at the border of their pictures, and which of them can be used.

    A box that is not finite, has no width or no height, or lies wholly outside cannot. ``sizes_N2`` is height and width of each box's
    picture, 0 where they are unknown: then nothing is cut. ``tell(kind, row, text)`` hears of each that cannot, or loses more than a pixel.
    """
    height_N, width_N = (np.where(sizes_N2[:, side] > 0, sizes_N2[:, side], np.inf) for side in (0, 1))
    known_N1 = (sizes_N2 > 0).all(1, keepdims=True)
    lowest_N4 = np.where(known_N1, 0.0, -np.inf)
    cut_N4 = np.clip(boxes_N4, lowest_N4, np.stack([width_N, height_N, width_N, height_N], 1))
    finite_N = np.isfinite(boxes_N4.sum(1))
    flat_N = finite_N & _flat(boxes_N4)
    outside_N = finite_N & ~flat_N & _flat(cut_N4)
    usable_N = finite_N & ~flat_N & ~outside_N
    clipped_N = usable_N & (np.abs(cut_N4 - boxes_N4, where=usable_N[:, None], out=np.zeros_like(cut_N4)).max(1, initial=0) > _OUT_BY)
    kinds = {
        "box is not four finite numbers": ~finite_N,
        "box of zero size": flat_N,
        "box outside the picture": outside_N,
        "box clipped": clipped_N,
    }
    for kind, rows_N in kinds.items():
        for row in np.flatnonzero(rows_N).tolist():
            tell(kind, row, _describe(boxes_N4[row], sizes_N2[row]))
    return cut_N4, usable_N


def _flat(boxes_N4: NDArray[np.float64]) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):
        return (boxes_N4[:, 2] <= boxes_N4[:, 0]) | (boxes_N4[:, 3] <= boxes_N4[:, 1])


def _describe(box: NDArray[np.float64], size: NDArray[Any]) -> str:
    left, top, right, bottom = (f"{side:.6g}" for side in box.tolist())
    within = f" in {size[1]} x {size[0]} pixels" if size.all() else ""
    return f"left {left}, top {top}, right {right}, bottom {bottom}{within}"
