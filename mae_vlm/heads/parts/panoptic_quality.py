"""Panoptic quality (Kirillov et al. 2019, arXiv 1801.00868), with unknown pixels and crowds as COCO's own evaluation treats them.

Letters: P predicted segments, G true segments, L classes, H, W pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

QUALITIES = "panoptic_classes"


def segment_matches(pred_HW: Tensor, classes_P: Tensor, true_HW: Tensor, classes_G: Tensor, crowds_G: Tensor, classes: int) -> Tensor:
    """Of one picture, for each class: summed IoU of the matches, matches, segments predicted for nothing, segments missed: ``[4, L]``.

    The maps (integers) hold 0 where there is no segment, k for segment k - 1. A pair of one class matches with an IoU above 0.5, in which
    unknown pixels of the prediction do not count. A crowd is neither matched nor missed; a prediction that lies for more than half on
    unknown pixels and crowds of its class is forgiven. One count of pairs of numbers, instead of a search for every segment.
    """
    rows, columns = len(classes_P) + 1, len(classes_G) + 1
    pairs = torch.bincount((pred_HW.long() * columns + true_HW.long()).flatten(), minlength=rows * columns)
    shared = pairs.view(rows, columns).double()
    area_P, area_G, unknown_P = shared[1:].sum(1), shared[:, 1:].sum(0), shared[1:, 0]
    union_PG = area_P[:, None] + area_G - shared[1:, 1:] - unknown_P[:, None]
    iou_PG = shared[1:, 1:] / union_PG.clamp(min=1)
    alike_PG = classes_P[:, None] == classes_G
    match_PG = (iou_PG > 0.5) & alike_PG & ~crowds_G
    forgiven_P = unknown_P + (shared[1:, 1:] * (alike_PG & crowds_G)).sum(1) > 0.5 * area_P
    wrong_P = ~match_PG.any(1) & (area_P > 0) & ~forgiven_P
    missed_G = ~match_PG.any(0) & (area_G > 0) & ~crowds_G
    found = torch.zeros(4, classes, dtype=torch.float64, device=pred_HW.device)
    found[0].index_add_(0, classes_G, (iou_PG * match_PG).sum(0))
    found[1].index_add_(0, classes_G, match_PG.sum(0).double())
    found[2].index_add_(0, classes_P, wrong_P.double())
    found[3].index_add_(0, classes_G, missed_G.double())
    return found


class PanopticQuality(Metric):
    """``pq`` = ``sq`` (mean IoU of the matches) times ``rq`` (their share), means over the classes that occur or were answered.

    With ``stuff``, the numbers of classes that are stuff, also ``pq_things`` and ``pq_stuff``. ``panoptic_classes`` ``[4, L]`` are the sums
    of :func:`segment_matches`. All 0 where no class occurs.
    """

    full_state_update = False
    sums: Tensor

    def __init__(self, classes: int, stuff: tuple[int, ...] = (), **more: Any) -> None:
        super().__init__(**more)
        self.classes, self.stuff = classes, stuff
        self.add_state("sums", default=torch.zeros(4, classes, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, pred_HW: Tensor, classes_P: Tensor, true_HW: Tensor, classes_G: Tensor, crowds_G: Tensor) -> None:
        """Add one picture, see :func:`segment_matches`."""
        self.sums += segment_matches(pred_HW, classes_P, true_HW, classes_G, crowds_G, self.classes)

    def compute(self) -> dict[str, Tensor]:
        qualities_3L, there_L = class_qualities(self.sums)
        results = dict(zip(("pq", "sq", "rq"), _means(qualities_3L, there_L).float(), strict=True))
        if self.stuff:
            stuff_L = torch.zeros_like(there_L)
            stuff_L[list(self.stuff)] = True
            results["pq_things"] = _means(qualities_3L, there_L & ~stuff_L)[0].float()
            results["pq_stuff"] = _means(qualities_3L, there_L & stuff_L)[0].float()
        return results | {QUALITIES: self.sums.clone()}


def class_qualities(sums_4L: Tensor) -> tuple[Tensor, Tensor]:
    """PQ, SQ and RQ of each class ``[3, L]``, and which classes occur or were answered, bool ``[L]``."""
    iou_L, right_L, wrong_L, missed_L = sums_4L
    count_L = right_L + 0.5 * wrong_L + 0.5 * missed_L
    rq_L = right_L / count_L.clamp(min=0.5)
    sq_L = iou_L / right_L.clamp(min=1)
    return torch.stack([sq_L * rq_L, sq_L, rq_L]), count_L > 0


def quality_table(sums_4L: Tensor, names: list[str]) -> list[list[str]]:
    """A row for each class with its qualities and counts; empty qualities where it never occurs."""
    qualities_3L, there_L = class_qualities(sums_4L.cpu())
    rows = [["class", "pq", "sq", "rq", "matched", "wrong", "missed"]]
    for number, name in enumerate(names):
        values = [f"{value:.4f}" for value in qualities_3L[:, number].tolist()] if there_L[number] else ["", "", ""]
        rows.append([name, *values, *(str(int(count)) for count in sums_4L[1:, number].tolist())])
    return rows


def _means(qualities_3L: Tensor, chosen_L: Tensor) -> Tensor:
    return (qualities_3L * chosen_L).sum(1) / chosen_L.sum().clamp(min=1)
