"""Masks that were said within boxes, in the pixels of the whole picture.

Letters: N masks, m cells of a mask down and across, H, W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_PIXELS = 1 << 25  # numbers that exist at one time: 128 MiB


def pasted(shares_Nmm: Tensor, boxes_N4: Tensor, size: tuple[int, int]) -> Tensor:
    """Where masks are above one half, bool ``[N, H, W]``: cells lie evenly in their box, between their middles it is bilinear.

    Boxes are in pixels of the picture of ``size`` (height, width), not rounded to whole ones; outside of its box a mask is empty.
    """
    height, width = size
    down_H = torch.arange(height, device=boxes_N4.device) + 0.5
    across_W = torch.arange(width, device=boxes_N4.device) + 0.5
    whole_NHW = torch.zeros(len(boxes_N4), height, width, dtype=torch.bool, device=boxes_N4.device)
    step = max(1, _PIXELS // (height * width))
    for start in range(0, len(boxes_N4), step):
        part = slice(start, start + step)
        left, top, right, bottom = boxes_N4[part].float().unbind(1)
        x_NW = (across_W - left[:, None]) / (right - left).clamp(min=1e-6)[:, None]
        y_NH = (down_H - top[:, None]) / (bottom - top).clamp(min=1e-6)[:, None]
        inside_NHW = ((y_NH >= 0) & (y_NH <= 1))[:, :, None] & ((x_NW >= 0) & (x_NW <= 1))[:, None]
        grid_NHW2 = torch.stack([x_NW[:, None].expand(-1, height, -1), y_NH[:, :, None].expand(-1, -1, width)], -1) * 2 - 1
        # what lies between the outermost cells' middles and the box's edge is as those cells are
        shares_NHW = functional.grid_sample(shares_Nmm[part, None].float(), grid_NHW2, padding_mode="border", align_corners=False)[:, 0]
        whole_NHW[part] = (shares_NHW > 0.5) & inside_NHW
    return whole_NHW
