"""How right answers are, over a whole set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from mae_vlm.tokens.answers import accuracy, commonest, normal

_CLOSED = ("yes", "no")


class AnswerScores(Metric):
    """Over all questions that people answered: ``vqa_accuracy`` (:func:`mae_vlm.tokens.answers.accuracy`), ``exact_match``, the share whose
    normal form is the commonest answer's, and ``exact_match_open``, the same where that is neither yes nor no.

    The last is left out where there is no such question.
    """

    full_state_update = False
    sums: Tensor

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self.add_state("sums", default=torch.zeros(5), dist_reduce_fx="sum")

    def update(self, said: Sequence[str], given: Sequence[Sequence[str]]) -> None:
        for one, answers in zip(said, given, strict=True):
            if answers:
                truth = commonest(answers)
                exact, opened = float(normal(one) == truth), float(truth not in _CLOSED)
                self.sums += torch.tensor([1.0, accuracy(one, answers), exact, opened, opened * exact], device=self.sums.device)

    def compute(self) -> dict[str, Tensor]:
        count, accurate, exact, opened, exact_opened = self.sums.unbind()
        found = {"vqa_accuracy": accurate / count.clamp(min=1), "exact_match": exact / count.clamp(min=1)}
        return found | ({"exact_match_open": exact_opened / opened} if opened else {})
