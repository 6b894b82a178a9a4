"""From what queries say to objects, panoptic segments and classes of pixels.

Each function is given one picture's logits and ``widen``, which brings maps ``[n, h, w]`` to the pixels that the answer is wanted in:
:func:`within` the prepared picture, or :func:`in_original`. Letters: Q queries, L classes, K answers, h, w cells, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mae_vlm.types import Frame

Widen = Callable[[Tensor], Tensor]
_CELLS = 1 << 25  # numbers that exist at one time: 128 MiB


class Segments(NamedTuple):
    """A map of int32 ``[H, W]``, 0 for none and k for segment k - 1, and each segment's class and score."""

    map: Tensor
    classes: Tensor
    scores: Tensor


def within(size: tuple[int, int], frame: Frame) -> Widen:
    """To the pixels of the prepared picture of ``size`` (height, width), without its padding."""
    return lambda maps: _scaled(maps, size)[:, : frame.rows, : frame.columns]


def in_original(size: tuple[int, int], frame: Frame) -> Widen:
    """To the pixels of the original picture; what lies outside the crop is minus infinity."""

    def widen(maps: Tensor) -> Tensor:
        part = within(size, frame)(maps)
        part = _scaled(part.flip(-1) if frame.mirrored else part, (frame.window_height, frame.window_width))
        right, below = (
            frame.width - frame.left - frame.window_width,
            frame.height - frame.top - frame.window_height,
        )
        return functional.pad(part, (frame.left, right, frame.top, below), value=-torch.inf)

    return widen


def instances(logits_QL: Tensor, masks_Qhw: Tensor, widen: Widen, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """The ``most`` best objects: bool masks ``[K, H, W]``, scores, the highest first, and classes; empty masks are left out.

    A score is the class's probability times the mask's mean probability over its pixels. The last column of ``logits_QL`` is no object.
    """
    share_QL = logits_QL.float().softmax(-1)[:, :-1]
    best = share_QL.flatten().topk(min(most, share_QL.numel()))
    query_K, classes_K = best.indices // share_QL.shape[1], best.indices % share_QL.shape[1]
    rows, place_K = torch.unique(query_K, return_inverse=True)
    masks, certain = [], []
    for part in rows.split(_step(masks_Qhw, widen)):
        wide = widen(masks_Qhw[part].float())
        masks.append(wide > 0)
        certain.append((wide.sigmoid() * masks[-1]).flatten(1).sum(1) / masks[-1].flatten(1).sum(1).clamp(min=1))
    scores_K = best.values * torch.cat(certain)[place_K]
    order = scores_K.argsort(descending=True, stable=True)
    order = order[scores_K[order] > 0]
    return torch.cat(masks)[place_K[order]], scores_K[order], classes_K[order]


def panoptic(logits_QL: Tensor, masks_Qhw: Tensor, widen: Widen, stuff: frozenset[int], score: float, overlap: float) -> Segments:
    """Segments that do not overlap: each pixel goes to the query with the largest score times mask probability.

    Queries with a score of up to ``score`` say nothing. A segment left with less than ``overlap`` of its own mask is dropped, and with what
    is left of a query, pixels where its mask is below one half. Queries of the same ``stuff`` class make one segment.
    Source: Mask2Former (Cheng et al. 2022), EoMT's thresholds.
    """
    score_Q, class_Q = logits_QL.float().softmax(-1).max(-1)
    kept = ((class_Q < logits_QL.shape[1] - 1) & (score_Q > score)).nonzero()[:, 0].tolist()
    highest = torch.full_like(widen(masks_Qhw[:1].float())[0], -1.0)
    owner = torch.zeros_like(highest, dtype=torch.int32)
    areas = owner.new_zeros(len(kept) + 1)  # of the masks themselves
    for place, query in enumerate(kept, start=1):  # one by one: all masks in an original's size may not fit
        share = widen(masks_Qhw[query : query + 1].float())[0].sigmoid()
        better, covers = score_Q[query] * share > highest, share >= 0.5
        highest, owner = torch.where(better, score_Q[query] * share, highest), torch.where(better, place * covers, owner)
        areas[place] = covers.sum()
    left = torch.bincount(owner.flatten(), minlength=len(areas))
    stays = ((left > 0) & (left >= overlap * areas)).tolist()
    found = [(place, query) for place, query in enumerate(kept, start=1) if stays[place]]
    kinds, scores = class_Q.tolist(), score_Q.tolist()
    return _numbered(owner, len(kept), [(place, kinds[query], scores[query]) for place, query in found], stuff)


def semantic(logits_QL: Tensor, masks_Qhw: Tensor, size: tuple[int, int], widen: Widen) -> Tensor:
    """The class of each pixel, int16 ``[H, W]``: the largest sum over queries of class times mask probability.

    The sums are made at ``size``, of the prepared picture, so that a large original does not need all queries in its size.
    """
    share_QL = logits_QL.float().softmax(-1)[:, :-1]
    sums_Lhw = torch.einsum("ql,qhw->lhw", share_QL, _scaled(masks_Qhw.float(), size).sigmoid())
    highest: Tensor | None = None
    for number, one in enumerate(sums_Lhw):
        wide = widen(one[None])[0]
        if highest is None:
            highest, answer = wide, torch.zeros_like(wide, dtype=torch.int16)
        else:
            answer = answer.masked_fill(wide > highest, number)
            highest = torch.maximum(highest, wide)
    return answer


def painted(masks_KHW: Tensor) -> Tensor:
    """Objects as a map to look at, int32 ``[H, W]``: 0 for none, k for object k - 1; the first, the best, lie on top."""
    map_HW = torch.zeros(masks_KHW.shape[1:], dtype=torch.int32, device=masks_KHW.device)
    for number in range(len(masks_KHW), 0, -1):
        map_HW[masks_KHW[number - 1]] = number
    return map_HW


def _numbered(owner: Tensor, places: int, found: list[tuple[int, int, float]], stuff: frozenset[int]) -> Segments:
    """Segments of the places (numbers in ``owner``, class, score) that remain, numbered anew, those of a stuff class as one."""
    number_of = torch.zeros(places + 1, dtype=torch.int32)
    classes: list[int] = []
    scores: list[float] = []
    for place, kind, score in found:
        if kind in stuff and kind in classes:
            number = classes.index(kind)
            scores[number] = max(scores[number], score)
        else:
            number = len(classes)
            classes.append(kind)
            scores.append(score)
        number_of[place] = number + 1
    to = owner.device
    return Segments(number_of.to(to)[owner.long()], torch.tensor(classes, dtype=torch.int64, device=to), torch.tensor(scores, device=to))


def _step(masks_Qhw: Tensor, widen: Widen) -> int:
    """How many masks to widen at one time."""
    height, width = widen(masks_Qhw[:1].float()).shape[1:]
    return max(1, _CELLS // (height * width))


def _scaled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if maps.shape[-2:] == size:
        return maps
    scaled: Tensor = functional.interpolate(maps[None], size=size, mode="bilinear")[0]
    return scaled
