"""Which detections are right, and from which score on to believe them.

Letters: N detections, G true objects.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_area, box_iou

_ENOUGH = 0.5  # IoU


class Best(NamedTuple):
    """A score, and what the detections from it on are worth."""

    threshold: float
    f1: float
    precision: float
    recall: float


def hits(found_N6: Tensor, true_G6: Tensor) -> tuple[Tensor, Tensor]:
    """Which detections of one picture are right, and which are neither right nor wrong: bool ``[N]`` each.

    Rows of ``found_N6`` are box, score, class, the highest score first, of ``true_G6`` box, class, crowd. Each detection takes the object
    of its class that it overlaps most and that is still free, from an IoU of 0.5 on; one that takes none, but has half of its area
    in a crowd of its class, does not count. That is COCO's rule.
    """
    right, aside = [False] * len(found_N6), [False] * len(found_N6)
    if len(true_G6) and len(found_N6):
        crowd_G = true_G6[:, 5] > 0
        same_NG = found_N6[:, 5:6] == true_G6[:, 4]
        iou_NG = box_iou(found_N6[:, :4], true_G6[:, :4])
        sums_NG = box_area(found_N6[:, :4])[:, None] + box_area(true_G6[:, :4])
        common_NG = iou_NG * sums_NG / (1 + iou_NG)
        within_NG = common_NG / box_area(found_N6[:, :4]).clamp(min=1e-9)[:, None]
        aside = (same_NG & crowd_G & (within_NG >= _ENOUGH)).any(1).tolist()
        free_NG = iou_NG.masked_fill(~same_NG | crowd_G, 0.0)
        for number in (free_NG.amax(1) >= _ENOUGH).nonzero()[:, 0].tolist():
            best = int(free_NG[number].argmax())
            if free_NG[number, best] >= _ENOUGH:
                right[number], aside[number] = True, False
                free_NG[:, best] = 0.0
    return torch.tensor(right, dtype=torch.bool), torch.tensor(aside, dtype=torch.bool)


def best_threshold(scores_N: Tensor, right_N: Tensor, count: int) -> Best:
    """The score from which on detections of all pictures have the highest F1, where ``count`` objects are to be found.

    It lies midway between the last that is believed and the first that is not, so that it survives another batch size. 0.5 and
    zeros where there is no right one.
    """
    if not right_N.any():
        return Best(0.5, 0.0, 0.0, 0.0)
    order = scores_N.argsort(descending=True, stable=True)
    scores, right = scores_N[order].double(), right_N[order].double().cumsum(0)
    shown = torch.arange(1, len(scores) + 1, dtype=torch.float64)
    f1 = 2 * right / (shown + count)
    following = torch.cat([scores[1:], scores.new_zeros(1)])
    best = int(f1.masked_fill(scores == following, -1.0).argmax())  # equal scores are believed together or not at all
    middle = (scores[best] + following[best]) / 2
    return Best(float(middle), float(f1[best]), float(right[best] / shown[best]), float(right[best] / count))
