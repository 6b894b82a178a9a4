"""How good scores are where a picture may have several classes.

Letters: B pictures, L classes, T thresholds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

_BINS = 200  # thresholds of a score, from 0 to 1


def several_metrics(classes: int) -> MetricCollection:
    """Of scores ``[B, classes]`` from 0 to 1 and a yes (1) or no (0) for each, -1 where one counts zero.

    ``map``: average precision; ``f1``: of scores over a half; both are means over the classes that occur. ``top1``: the share of pictures
    with any class whose highest score is of one of theirs.
    """
    found: dict[str, Metric | MetricCollection] = {"map": AveragePrecision(classes, _BINS), "f1": HalfF1(classes), "top1": TopIsTrue()}
    return MetricCollection(found, compute_groups=False)


class _Counted(Metric):
    """Right and wrong yeses, and all that were due, by threshold and class."""

    higher_is_better = True
    full_state_update = False
    thresholds: Tensor
    right_TL: Tensor
    wrong_TL: Tensor
    due_L: Tensor

    def __init__(self, classes: int, thresholds: Tensor) -> None:
        super().__init__()
        self.register_buffer("thresholds", thresholds, persistent=False)
        for name in ("right_TL", "wrong_TL"):
            self.add_state(name, torch.zeros(len(thresholds), classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("due_L", torch.zeros(classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores_BL: Tensor, target_BL: Tensor) -> None:
        """A score is a yes from the threshold on."""
        for place, threshold in enumerate(self.thresholds):  # one after the other: all at once would be hundreds of such matrices
            yes_BL = scores_BL >= threshold
            self.right_TL[place] += (yes_BL & (target_BL == 1)).sum(0)
            self.wrong_TL[place] += (yes_BL & (target_BL == 0)).sum(0)
        self.due_L += (target_BL == 1).sum(0)

    def _mean(self, values_L: Tensor) -> Tensor:
        """Over the classes that occur; NaN where none does."""
        return values_L[self.due_L > 0].mean()


class AveragePrecision(_Counted):
    """Mean over the classes that occur of the area under precision over recall, at evenly spaced thresholds.

    torchmetrics' own (1.9) counts a class that never occurs as 0.
    """

    def __init__(self, classes: int, thresholds: int) -> None:
        super().__init__(classes, torch.linspace(0, 1, thresholds))

    def compute(self) -> Tensor:
        said_TL = self.right_TL + self.wrong_TL
        precision_TL = torch.where(said_TL > 0, self.right_TL / said_TL.clamp(min=1), 1.0)
        recall_TL = self.right_TL / self.due_L.clamp(min=1)
        below_TL = torch.cat([recall_TL[1:], torch.zeros_like(recall_TL[:1])])
        return self._mean(((recall_TL - below_TL) * precision_TL).sum(0))


class HalfF1(_Counted):
    """Mean over the classes that occur of F1, a yes being a score of more than a half."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes, torch.tensor([0.5]))

    def compute(self) -> Tensor:
        right_L, wrong_L = self.right_TL[0], self.wrong_TL[0]
        return self._mean(2 * right_L / (right_L + wrong_L + self.due_L).clamp(min=1))


class TopIsTrue(Metric):
    """The share of pictures with any class whose highest score is of one of theirs; those not known count zero."""

    higher_is_better = True
    full_state_update = False
    right: Tensor
    seen: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name in ("right", "seen"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores_BL: Tensor, target_BL: Tensor) -> None:
        self.right += (target_BL.gather(1, scores_BL.argmax(1, keepdim=True)) == 1).sum()
        self.seen += (target_BL == 1).any(1).sum()

    def compute(self) -> Tensor:
        return self.right / self.seen
