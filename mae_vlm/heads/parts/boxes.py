"""Boxes as a detector says them, and how well two fit: left, top, right, bottom in pixels.

Letters: M places; dots stand for any dimensions in front.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LARGEST = 5.0  # of a side's logarithm: 148 squares; a freely growing one would overflow


def decode(raw_M4: Tensor, centres_M2: Tensor, side_M: Tensor) -> Tensor:
    """Boxes ``[..., M, 4]`` from shifts of the centre and logarithms of width and height, all relative to the side of the place's square.

    Unlike distances to four sides (FCOS), this can also name a box that the place lies beside.
    """
    raw_M4 = raw_M4.float()
    centre_M2 = centres_M2 + raw_M4[..., :2] * side_M[:, None]
    half_M2 = raw_M4[..., 2:].clamp(-_LARGEST, _LARGEST).exp() * side_M[:, None] / 2
    return torch.cat([centre_M2 - half_M2, centre_M2 + half_M2], dim=-1)


def iou(ours: Tensor, theirs: Tensor) -> Tensor:
    """Intersection over union of each box of ``[..., 4]`` with its counterpart: ``[...]``, 0 where both are empty."""
    common = (torch.minimum(ours[..., 2:], theirs[..., 2:]) - torch.maximum(ours[..., :2], theirs[..., :2])).clamp(min=0).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1) for boxes in (ours, theirs)]
    return common / (areas[0] + areas[1] - common).clamp(min=1e-9)
