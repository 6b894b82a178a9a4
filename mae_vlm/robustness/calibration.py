"""Whether a classifier's scores are the shares of right answers that they claim to be.

Letters: B pictures, L classes, K bins.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from mae_vlm.heads.base import Head
from mae_vlm.types import Prediction

BINS = 15


def classifies(head: Head) -> bool:
    """Whether it says which class a whole picture is of."""
    return head.learns == "classes" and head.best[0] == "top1"


class Bin(NamedTuple):
    """Pictures whose highest score lies in one stretch: how many, their mean score, and the share of right answers among them."""

    pictures: int
    score: float
    right: float


def _none() -> Tensor:
    return torch.zeros(BINS, dtype=torch.float64)


@dataclass
class Calibration:
    """Answers sorted by their highest score into 15 equal stretches of [0, 1] (Guo et al. 2017, arXiv 1706.04599, section 2)."""

    count_K: Tensor = field(default_factory=_none)
    score_K: Tensor = field(default_factory=_none)  # sums
    right_K: Tensor = field(default_factory=_none)

    def add(self, scores_BL: Tensor, labels_B: Tensor) -> None:
        """Scores of all classes and the true ones, on the CPU; a label of -1 counts zero."""
        best_B, said_B = scores_BL.double().max(dim=1)
        known_B = (labels_B >= 0).double()
        place_B = (best_B * BINS).ceil().long().clamp(1, BINS) - 1  # a stretch holds its upper end
        self.count_K.index_add_(0, place_B, known_B)
        self.score_K.index_add_(0, place_B, known_B * best_B)
        self.right_K.index_add_(0, place_B, known_B * (said_B == labels_B))

    def add_answers(self, predictions: list[Prediction], labels_B: Tensor) -> None:
        """The same of what a head said; ``labels_B`` are those of the same pictures."""
        if predictions:
            scores = [one.scores for one in predictions if one.scores is not None]
            self.add(torch.stack(scores), labels_B.cpu())

    def __add__(self, other: Calibration) -> Calibration:
        return Calibration(self.count_K + other.count_K, self.score_K + other.score_K, self.right_K + other.right_K)

    @property
    def error(self) -> float:
        """Expected calibration error: the mean distance between score and share of right answers, each stretch by its pictures."""
        return float((self.score_K - self.right_K).abs().sum() / self.count_K.sum())

    def bins(self) -> list[Bin]:
        """The stretches that hold any picture, the lowest score first."""
        rows = zip(self.count_K.tolist(), self.score_K.tolist(), self.right_K.tolist(), strict=True)
        return [Bin(round(count), score / count, right / count) for count, score, right in rows if count]
