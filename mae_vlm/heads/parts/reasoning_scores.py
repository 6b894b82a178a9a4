"""How often statements are judged and candidates chosen rightly, over a whole set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class Accuracy(Metric):
    """The share that is right; 0 where nothing is told."""

    full_state_update = False
    sums: Tensor

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self.add_state("sums", default=torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, right: Sequence[bool]) -> None:
        self.sums += torch.tensor([float(len(right)), float(sum(right))], dtype=torch.float64, device=self.sums.device)

    def compute(self) -> Tensor:
        count, right = self.sums.unbind()
        return (right / count.clamp(min=1)).float()


class ChoiceScores(Metric):
    """Of questions ``accuracy``, of the reasons asked for after them ``rationale_accuracy``, and ``both_accuracy``.

    The last is the share of reasons that are right together with the question before: VCR's Q -> A, QA -> R and Q -> AR (arXiv 1811.10830,
    section 3). The last two are left out where nobody asks for reasons.
    """

    full_state_update = False
    sums: Tensor

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self.add_state("sums", default=torch.zeros(5, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, right: Sequence[bool | None], rationale: Sequence[bool]) -> None:
        """``right`` of each question of a batch, in order, None where that is not known, and whether it asks for a reason."""
        before: bool | None = None
        for one, reason in zip(right, rationale, strict=True):
            if one is not None:
                told = [0.0, 0.0, 1.0, one, one and bool(before)] if reason else [1.0, one, 0.0, 0.0, 0.0]
                self.sums += torch.tensor(told, dtype=torch.float64, device=self.sums.device)
            before = one

    def compute(self) -> dict[str, Tensor]:
        asked, right, reasons, reasoned, both = self.sums.float().unbind()
        found = {"accuracy": right / asked.clamp(min=1)}
        return found | ({"rationale_accuracy": reasoned / reasons, "both_accuracy": both / reasons} if reasons else {})
