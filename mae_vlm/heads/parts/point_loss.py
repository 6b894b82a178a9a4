"""Losses of masks at a sample of points, most of them where the mask is least certain (Kirillov et al. 2020, PointRend, section 3.1).

Points are (x, y) in shares of the picture, 0 to 1 from its left and upper edge. Letters: M masks, N objects, C candidates, P points,
H, W pixels, h, w cells of a predicted mask.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mae_vlm.tokens.chance import uniform

OVERSAMPLE, UNCERTAIN = 3, 0.75  # candidates for each point, and the share of points chosen among them


def random_points(keys_B: Tensor, count: int, stream: int) -> Tensor:
    """``[B, count, 2]``, drawn from the pictures' keys."""
    return uniform(keys_B, 2 * count, stream).view(len(keys_B), count, 2)


def logits_at(logits_BChw: Tensor, points_BP2: Tensor) -> Tensor:
    """Each of C maps at the points of its picture: ``[B, C, P]``, bilinear, zero outside."""
    found: Tensor = functional.grid_sample(logits_BChw, 2 * points_BP2[:, None].to(logits_BChw.dtype) - 1, align_corners=False)
    return found[:, :, 0]


def truth_at(masks_NHW: Tensor, rows_M: Tensor, points_MP2: Tensor) -> Tensor:
    """The bool masks of the objects ``rows_M`` at points, ``[M, P2]`` or ``[1, P, 2]`` for all: float32 ``[M, P]``, bilinear, 0 outside.

    Equal to :func:`logits_at` of the masks as numbers, without ever making numbers of the masks: 2,000 of them would not fit.
    """
    height, width = masks_NHW.shape[1:]
    x, y = points_MP2[..., 0] * width - 0.5, points_MP2[..., 1] * height - 0.5
    left, top = x.floor(), y.floor()
    flat, first_M1 = masks_NHW.flatten(), (rows_M * (height * width))[:, None]  # one index: two are four times as slow on a CPU
    values = torch.zeros(len(rows_M), points_MP2.shape[1], device=masks_NHW.device)
    for column, across in ((left, 1 - (x - left)), (left + 1, x - left)):
        for row, down in ((top, 1 - (y - top)), (top + 1, y - top)):
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long()
            values += flat.index_select(0, (first_M1 + index).flatten()).view_as(values) * (across * down * inside)
    return values


@torch.no_grad()
def chosen_points(logits_Mhw: Tensor, candidates_MC2: Tensor, random_MR2: Tensor, count: int) -> Tensor:
    """``count`` points for each mask: of its candidates those with a logit next to 0, then its random ones: ``[M, P, 2]``."""
    doubt_MC = -logits_at(logits_Mhw[:, None], candidates_MC2)[:, 0].abs()
    index_MP = doubt_MC.topk(count - random_MR2.shape[1], dim=1).indices
    return torch.cat([candidates_MC2.gather(1, index_MP[..., None].expand(-1, -1, 2)), random_MR2], dim=1)


def mask_losses(logits_MP: Tensor, truth_MP: Tensor) -> tuple[Tensor, Tensor]:
    """Of each mask, over its points: the mean binary cross-entropy ``[M]`` and the Dice loss ``[M]``, 1 - (2 pt + 1) / (p + t + 1)."""
    entropy_M = functional.binary_cross_entropy_with_logits(logits_MP, truth_MP, reduction="none").mean(1)
    shares_MP = logits_MP.sigmoid()
    dice_M = 1 - (2 * (shares_MP * truth_MP).sum(1) + 1) / (shares_MP.sum(1) + truth_MP.sum(1) + 1)
    return entropy_M, dice_M
