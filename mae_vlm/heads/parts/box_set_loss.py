"""The loss of a set of queries against a set of boxes.

Boxes are centre, width and height in shares of the picture. Letters: B pictures, Q queries of all groups, L classes, N objects of a
picture, M pairs of query and object in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import box_convert, generalized_box_iou, generalized_box_iou_loss

from mae_vlm.heads.parts.boxes import iou
from mae_vlm.heads.parts.matching import assign

WEIGHTS = {"classes": 1.0, "boxes": 5.0, "overlaps": 2.0}  # of the terms
_COSTS = (2.0, 5.0, 2.0)  # of class, distance and overlap, when queries are given to objects
_ALPHA, _LEAST = 0.25, 0.01  # share of the probability in a pair's target (the rest is the IoU's), and the lowest target


class Truth(NamedTuple):
    """The objects of one picture: boxes ``[N, 4]``, class numbers ``[N]`` and, where they are learned, bool masks ``[N, H, W]``."""

    boxes: Tensor
    classes: Tensor
    masks: Tensor | None = None


class Output(NamedTuple):
    """What the queries say at one depth: class logits ``[B, Q, L]`` and boxes ``[B, Q, 4]``."""

    classes: Tensor
    boxes: Tensor


class Pairs(NamedTuple):
    """Which query of which picture answers for which of its objects ``[M]`` each, and that object's box ``[M, 4]`` and class ``[M]``."""

    picture: Tensor
    query: Tensor
    object: Tensor
    boxes: Tensor
    classes: Tensor


@torch.no_grad()
def box_costs(logits_QL: Tensor, boxes_Q4: Tensor, truth: Truth) -> Tensor:
    """What it costs to let each query answer for each object: float32 ``[Q, N]``.

    Twice the focal loss of the class (what it costs as an object less what as none), 5 times the sum of the four distances, less twice the
    generalised IoU. Source: Deformable DETR (Zhu et al. 2020, arXiv 2010.04159, appendix A.4) and LW-DETR.
    """
    logits_QN, boxes_Q4 = logits_QL.float()[:, truth.classes], boxes_Q4.float()
    share_QN = logits_QN.sigmoid()
    there_QN = 0.25 * (1 - share_QN) ** 2 * functional.softplus(-logits_QN)
    none_QN = 0.75 * share_QN**2 * functional.softplus(logits_QN)
    apart_QN = torch.cdist(boxes_Q4, truth.boxes, p=1)
    overlap_QN: Tensor = generalized_box_iou(corners(boxes_Q4), corners(truth.boxes))
    return _COSTS[0] * (there_QN - none_QN) + _COSTS[1] * apart_QN - _COSTS[2] * overlap_QN


@torch.no_grad()
def matched(
    outputs: Sequence[Output], truths: Sequence[Truth | None], groups: int, more: Callable[[int, int, Truth], Tensor] | None = None
) -> list[Pairs]:
    """For each output the cheapest pairs, of each of the ``groups`` of queries by itself; none in a picture whose truth is None.

    ``more`` gives further costs ``[Q, N]`` of an output (by its number) in a picture.
    """
    device = outputs[0].classes.device
    known = [(picture, truth) for picture, truth in enumerate(truths) if truth is not None and len(truth.classes)]
    before = [sum(len(truth.classes) for _, truth in known[:place]) for place in range(len(known))]
    costs: list[Tensor] = []
    where: list[tuple[int, int, int]] = []  # of each cost matrix: its picture, first query, and its picture's first object among all
    for number, output in enumerate(outputs):
        for (picture, truth), first in zip(known, before, strict=True):
            whole_QN = box_costs(output.classes[picture], output.boxes[picture], truth)
            own = (whole_QN if more is None else whole_QN + more(number, picture, truth)).chunk(groups)
            costs += own
            where += [(picture, group * len(own[0]), first) for group in range(groups)]
    pairs = assign(costs)
    counts = torch.tensor([len(query_M) for query_M, _ in pairs], dtype=torch.int64)
    place_M3 = torch.tensor(where, dtype=torch.int64).reshape(-1, 3).repeat_interleave(counts, dim=0).to(device)
    none = torch.zeros(0, dtype=torch.int64, device=device)
    query_M, object_M = (torch.cat([none, *part]) for part in (zip(*pairs, strict=True) if pairs else ((), ())))
    boxes_N4 = torch.cat([torch.zeros(0, 4, device=device), *(truth.boxes for _, truth in known)])
    classes_N = torch.cat([none, *(truth.classes for _, truth in known)])
    index_M = object_M + place_M3[:, 2]
    whole = Pairs(place_M3[:, 0], query_M + place_M3[:, 1], object_M, boxes_N4[index_M], classes_N[index_M])
    sizes = counts.view(len(outputs), -1).sum(1).tolist()
    return [Pairs(*part) for part in zip(*(torch.split(part, sizes) for part in whole), strict=True)]


def set_sums(output: Output, pairs: Pairs, real_B: Tensor) -> dict[str, Tensor]:
    """The terms of one output as sums, in float32: ``classes`` over all queries of real pictures, the others over the pairs.

    Where there is no pair these are 0, with a gradient of 0 for all that the boxes were made of.
    """
    said_M4 = output.boxes.float()[pairs.picture, pairs.query]
    fit_M = iou(corners(said_M4.detach()), corners(pairs.boxes))
    return {
        "classes": (_class_errors(output.classes.float(), pairs, fit_M) * real_B[:, None, None]).sum(),
        "boxes": (said_M4 - pairs.boxes).abs().sum(),
        "overlaps": generalized_box_iou_loss(corners(said_M4), corners(pairs.boxes)).sum(),
    }


def _class_errors(logits_BQL: Tensor, pairs: Pairs, fit_M: Tensor) -> Tensor:
    """``[B, Q, L]``: cross-entropy of a pair's class with a target made of its probability and its IoU; p^2 times that with 0 elsewhere.

    IoU-aware classification (Cai et al. 2023, Align-DETR, arXiv 2304.07527), as in LW-DETR.
    """
    place = (pairs.picture, pairs.query, pairs.classes)
    share_BQL = logits_BQL.sigmoid()
    target_M = (share_BQL[place].detach() ** _ALPHA * fit_M ** (1 - _ALPHA)).clamp(min=_LEAST)
    right_BQL = torch.zeros_like(logits_BQL).index_put(place, target_M)
    wrong_BQL = share_BQL.square().index_put(place, 1 - target_M)
    return right_BQL * functional.softplus(-logits_BQL) + wrong_BQL * functional.softplus(logits_BQL)


def corners(boxes: Tensor) -> Tensor:
    """Left, top, right and bottom of boxes ``[..., 4]``."""
    converted: Tensor = box_convert(boxes, "cxcywh", "xyxy")
    return converted
