"""Nearest neighbours within a validation set, as a metric: what features tell of a class without any fitting.

Letters: B pictures, F features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from mae_vlm.heads.parts.nearest import nearest_neighbours


class HalvesKnn(Metric):
    """The share of pictures that their neighbours in the other half of the set name (0 to 1); a half is told by a picture's name.

    Keeps the features of all labelled pictures until it is computed, float32: 150 MB for 50,000 of width 768. NaN where a half is empty.
    """

    higher_is_better = True
    full_state_update = False
    features: list[Tensor]
    labels: list[Tensor]
    halves: list[Tensor]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name in ("features", "labels", "halves"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, features_BF: Tensor, labels_B: Tensor, half_B: Tensor) -> None:
        """Those labelled -1 count zero; ``half_B`` is 0 or 1."""
        known_B = labels_B >= 0
        self.features.append(features_BF[known_B].float())
        self.labels.append(labels_B[known_B])
        self.halves.append(half_B[known_B])

    def compute(self) -> Tensor:
        features_BF, labels_B, half_B = (_joined(part) for part in (self.features, self.labels, self.halves))
        first_B, second_B = half_B == 0, half_B == 1
        if not bool(first_B.any()) or not bool(second_B.any()):
            return torch.full((), float("nan"), device=self.device)
        right = 0.0
        for scored_B, known_B in ((first_B, second_B), (second_B, first_B)):
            share = nearest_neighbours(features_BF[known_B], labels_B[known_B], features_BF[scored_B], labels_B[scored_B])
            right += share * int(scored_B.sum())
        return torch.tensor(right / len(labels_B), device=self.device)


def _joined(parts: Any) -> Tensor:
    return parts if isinstance(parts, Tensor) else torch.cat(parts)  # gathered over processes they are one already
