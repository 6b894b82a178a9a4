"""Answers to questions about the picture, while it is pretrained."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torchmetrics import MetricCollection

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.objectives.base import Objective
from mae_vlm.pairing.answer_scores import AnswerScores
from mae_vlm.pairing.answering import Answered, Answering
from mae_vlm.types import Batch, Loss


class Answers(Objective):
    """Questions answered by choosing, see :class:`mae_vlm.pairing.answering.Answering`; what :class:`mae_vlm.heads.answer` learns later.

    Validation logs ``vqa_accuracy``, ``exact_match`` and ``exact_match_open`` over all questions.

    Args:
        towers, weight: see :class:`Objective`.
        classes: the answers to choose from. The CLI takes them from the training data.
        least, most: which it takes: those that are the commonest answer of at least ``least`` questions, ``most`` at most.
        loss, questions, picture: see :class:`mae_vlm.pairing.answering.Answering`.

    Raises:
        ValueError: a tower is missing, or an option out of its range.
    """

    learns: ClassVar[str] = "answers"

    def __init__(
        self,
        towers: Towers,
        weight: float = 1.0,
        classes: list[str] | None = None,
        least: int = 1,
        most: int = 3129,
        loss: str = "binary",
        questions: int = 4,
        picture: bool = True,
    ) -> None:
        super().__init__(towers, weight)
        self.views = towers.told_fusion().views
        self.answering = Answering(towers, classes, loss, questions, picture)

    def forward(self, features: Features, batch: Batch) -> Loss:
        return Loss.of({self.answering.loss: self.answering.term(self._answered(features).logits_RL, batch)})

    def counts(self, features: Features) -> dict[str, Tensor]:
        return {self.answering.loss: self.answering.count(features.batch)}

    def metrics(self) -> MetricCollection:
        return MetricCollection({"answers": AnswerScores()})

    def measure(self, metrics: MetricCollection, features: Features) -> None:
        asked = [one for some in self.answering.asked(features.batch) for one in some]
        metrics.update(self.answering.said(self._answered(features).logits_RL)[: len(asked)], [one.answers for one in asked])

    def _answered(self, features: Features) -> Answered:
        answered: Answered = features.once(f"answers of {id(self)}", lambda: self.answering(features))
        return answered
