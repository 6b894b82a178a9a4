"""Where a dense detector looks, and which object each place answers for: pure functions of sizes and boxes.

Letters: B pictures, N objects, M places of all levels, K candidate places of an object, L classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mae_vlm.types import TokenSpace

_ANCHOR = 4  # sides of a place's square, in strides
_MOST_LEVELS = 5
_AROUND = 3  # candidates of an object on a level: so many places down and across
_AT_ONCE = 64  # crowds compared with all places


class Level(NamedTuple):
    """A grid of places, ``stride`` pixels apart; the first lies half a stride from the upper left corner."""

    rows: int
    columns: int
    stride: int


def pyramid_scales(space: TokenSpace) -> tuple[float, ...]:
    """Factors of the patch grid for the levels of a pyramid, the finest first.

    The finest level has a place every 4 to 8 pixels, a finer one would cost more than the encoder; each further one half of that, as
    long as it has two places down and across, five levels at most.
    """
    finest = 1.0 if space.patch < 8 else 2.0 if space.patch < 24 else 4.0
    scales = [finest]
    while len(scales) < _MOST_LEVELS and min(space.rows, space.columns) * scales[-1] > 2:
        scales.append(scales[-1] / 2)
    return tuple(scales)


def levels_of(space: TokenSpace, scales: tuple[float, ...]) -> tuple[Level, ...]:
    """The places of a pyramid with these scales; odd sides of the grid are rounded up, as pooling does."""
    return tuple(Level(_up(space.rows, scale), _up(space.columns, scale), round(space.patch / scale)) for scale in scales)


def _up(cells: int, scale: float) -> int:
    return -(-cells * round(4096 * scale) // 4096)


def places(levels: tuple[Level, ...], device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Of all places, level by level and row by row: the centre ``[M, 2]`` (across, down) in pixels, and the side ``[M]`` of its square."""
    centres, sides = [], []
    for level in levels:
        down = (torch.arange(level.rows, device=device) + 0.5) * level.stride
        across = (torch.arange(level.columns, device=device) + 0.5) * level.stride
        centres.append(torch.cartesian_prod(down, across).flip(1))
        sides.append(torch.full((level.rows * level.columns,), float(_ANCHOR * level.stride), device=device))
    return torch.cat(centres), torch.cat(sides)


def assign(boxes_BN4: Tensor, there_BN: Tensor, levels: tuple[Level, ...]) -> Tensor:
    """The object that each place answers for, int64 ``[B, M]``; -1 where none.

    Adaptive training sample selection (Zhang et al. 2020, arXiv 1912.02424, algorithm 1): candidates of an object are the nearest places
    of each level; those belong to it that lie inside and whose square overlaps it by more than is usual among its candidates: the mean
    and one deviation of the IoU. Here the candidates are the 3 x 3 places around its centre, found without comparing every object with
    every place, so that thousands of objects take no memory; and the best candidate belongs to it in any case, so that an object of a
    few pixels between the places is learned too. A place that several objects want answers for the one that has it as its best, then for
    the one that it overlaps most, then for the first.

    Args:
        boxes_BN4: left, top, right, bottom in pixels.
        there_BN: False where there is no object: lists are filled up.
        levels: the places.
    """
    index_BNK, centres_BNK2, side_K = _candidates(boxes_BN4, levels)
    overlap_BNK, inside_BNK, gap_BNK = _compare(boxes_BN4, centres_BNK2, side_K)
    mean_BN1 = overlap_BNK.mean(-1, keepdim=True)
    usual_BN1 = mean_BN1 + (overlap_BNK - mean_BN1).square().mean(-1, keepdim=True).sqrt()
    rank_BNK = overlap_BNK - 1e-3 * gap_BNK / side_K  # of equals the nearest
    best_BNK = functional.one_hot(rank_BNK.argmax(-1), len(side_K)).bool()
    wanted_BNK = (((overlap_BNK >= usual_BN1) & inside_BNK) | best_BNK) & there_BN[..., None]
    bid_BNK = torch.where(wanted_BNK, rank_BNK + 2.0 * best_BNK, -9.0)
    return _highest(bid_BNK, wanted_BNK, index_BNK, sum(level.rows * level.columns for level in levels))


def _candidates(boxes_BN4: Tensor, levels: tuple[Level, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Of each object the places around its centre: their numbers ``[B, N, K]``, centres ``[B, N, K, 2]`` and sides ``[K]``."""
    centre_BN2 = (boxes_BN4[..., :2] + boxes_BN4[..., 2:]) / 2
    numbers, centres, sides, before = [], [], [], 0
    for level in levels:
        across_BN3 = _around(centre_BN2[..., 0], level.columns, level.stride)
        down_BN3 = _around(centre_BN2[..., 1], level.rows, level.stride)
        across_BNK = across_BN3.repeat(1, 1, down_BN3.shape[-1])
        down_BNK = down_BN3.repeat_interleave(across_BN3.shape[-1], dim=-1)
        numbers.append(before + down_BNK * level.columns + across_BNK)
        centres.append((torch.stack([across_BNK, down_BNK], -1) + 0.5) * level.stride)
        sides.append(boxes_BN4.new_full((across_BNK.shape[-1],), float(_ANCHOR * level.stride)))
        before += level.rows * level.columns
    return torch.cat(numbers, -1), torch.cat(centres, -2), torch.cat(sides)


def _around(centre_BN: Tensor, count: int, stride: int) -> Tensor:
    """The three cells around a coordinate, or as many as there are, int64 ``[B, N, 3]``."""
    many = min(_AROUND, count)
    first_BN = ((centre_BN / stride).floor().long() - 1).clamp(0, count - many)
    return first_BN[..., None] + torch.arange(many, device=centre_BN.device)


def _compare(boxes_BN4: Tensor, centres_BNK2: Tensor, side_K: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of objects and their candidates: IoU with the place's square, whether the place lies inside, and how far from the middle."""
    low_BN12, high_BN12 = boxes_BN4[..., None, :2], boxes_BN4[..., None, 2:]
    half_K1 = side_K[:, None] / 2
    common_BNK2 = torch.minimum(centres_BNK2 + half_K1, high_BN12) - torch.maximum(centres_BNK2 - half_K1, low_BN12)
    common_BNK = common_BNK2.clamp(min=0).prod(-1)
    area_BN1 = (high_BN12 - low_BN12).clamp(min=0).prod(-1)
    overlap_BNK = common_BNK / (area_BN1 + side_K**2 - common_BNK)
    inside_BNK = ((centres_BNK2 > low_BN12) & (centres_BNK2 < high_BN12)).all(-1)
    gap_BNK = (centres_BNK2 - (low_BN12 + high_BN12) / 2).square().sum(-1).sqrt()
    return overlap_BNK, inside_BNK, gap_BNK


def _highest(bid_BNK: Tensor, wanted_BNK: Tensor, index_BNK: Tensor, count: int) -> Tensor:
    """The object with the highest bid for each of ``count`` places ``[B, M]``, the first of equals; -1 where nobody wants it."""
    pictures, objects, _ = bid_BNK.shape
    index, bid = index_BNK.flatten(1), bid_BNK.flatten(1)
    top_BM = bid.new_full((pictures, count), -9.0).scatter_reduce(1, index, bid, "amax")
    wins = wanted_BNK.flatten(1) & (bid == top_BM.gather(1, index))
    number = torch.arange(objects, device=bid.device)[None, :, None].expand_as(index_BNK).flatten(1)
    owner_BM = index.new_full((pictures, count), objects).scatter_reduce(1, index, torch.where(wins, number, objects), "amin")
    return torch.where(owner_BM == objects, -1, owner_BM)


def in_crowd(boxes_BN4: Tensor, classes_BN: Tensor, crowds_BN: Tensor, centres_M2: Tensor, classes: int) -> Tensor:
    """Whether a place lies in a region of many objects of a class, bool ``[B, M, L]``: nobody knows how many of them are there."""
    found_BML = torch.zeros(len(boxes_BN4), len(centres_M2), classes, device=boxes_BN4.device)
    for start in range(0, int(crowds_BN.sum(1).max()) if crowds_BN.numel() else 0, _AT_ONCE):
        first_BC = crowds_BN.long().argsort(dim=1, descending=True, stable=True)[:, start : start + _AT_ONCE]
        box_B1C4 = boxes_BN4.gather(1, first_BC[..., None].expand(-1, -1, 4))[:, None]
        inside_BMC = ((centres_M2[:, None] >= box_B1C4[..., :2]) & (centres_M2[:, None] < box_B1C4[..., 2:])).all(-1)
        kind_BCL = functional.one_hot(classes_BN.gather(1, first_BC), classes) * crowds_BN.gather(1, first_BC)[..., None]
        found_BML += inside_BMC.float() @ kind_BCL.float()
    return found_BML > 0
