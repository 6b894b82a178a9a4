"""Pictures larger than the encoder's own, looked at through overlapping windows.

Letters: B pictures, L classes, h, w cells of a map of scores, down and across.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from mae_vlm.encoders.features import Features
from mae_vlm.types import TokenSpace


def through_windows(features: Features, space: TokenSpace, see: Callable[[Features], Tensor], overlap: float = 0.5) -> Tensor:
    """What ``see`` makes of pictures of any size, ``[B, L, h, w]``: of those of the encoder's ``space`` what it makes of them at once.

    Of larger ones it is the mean over windows of that size, which overlap by at least about the share ``overlap`` and lie on whole patches.
    Each counts less towards its edge, where it sees less around a pixel, so that no seam shows. ``see`` gives as many cells for each
    patch, whatever the window.

    Raises:
        ValueError: pictures that are smaller than the encoder's, or no whole patches.
    """
    height, width = features.batch.images_BCHW.shape[-2:]
    if (height, width) == (space.height, space.width):
        return see(features)
    check_canvas((height, width), space)
    rows, columns = height // space.patch, width // space.patch
    total = weight = None
    for top, left in product(corners(rows, space.rows, overlap), corners(columns, space.columns, overlap)):
        seen_BLhw = see(features.window(top * space.patch, left * space.patch)).float()
        fine = seen_BLhw.shape[-1] // space.columns  # cells of a patch's side
        if total is None or weight is None:
            total = seen_BLhw.new_zeros(*seen_BLhw.shape[:2], rows * fine, columns * fine)
            weight = seen_BLhw.new_zeros(rows * fine, columns * fine)
        tent_hw = torch.outer(*(_tent(side, seen_BLhw.device) for side in seen_BLhw.shape[-2:]))
        part = (..., slice(top * fine, (top + space.rows) * fine), slice(left * fine, (left + space.columns) * fine))
        total[part] += seen_BLhw * tent_hw
        weight[part] += tent_hw
    assert total is not None and weight is not None
    return total / weight


def check_canvas(size: tuple[int, int], space: TokenSpace) -> None:
    """That windows of ``space`` can cover pictures of ``size`` (height, width).

    Raises:
        ValueError: they cannot.
    """
    if size[0] < space.height or size[1] < space.width or size[0] % space.patch or size[1] % space.patch:
        raise ValueError(
            f"pictures of {size[0]} x {size[1]} cannot be looked at through windows of {space.height} x {space.width}; give sides that "
            f"are multiples of the patch {space.patch} and no smaller than a window's"
        )


def corners(canvas: int, window: int, overlap: float) -> list[int]:
    """Where windows begin on a side of ``canvas`` patches, evenly spread over it: the fewest that overlap as asked."""
    if canvas == window:
        return [0]
    more = math.ceil((canvas - window) / max(1.0, window * (1 - overlap)))
    return [round(number * (canvas - window) / more) for number in range(more + 1)]


def _tent(count: int, device: torch.device) -> Tensor:
    """Weights that rise from the edges to the middle ``[count]``, nowhere 0."""
    places = torch.arange(count, device=device) + 0.5
    return torch.minimum(places, count - places)
