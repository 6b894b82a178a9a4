"""What is the answer to a question about the picture: one of those that the training data has.

Letters: B pictures, R questions, one below the other, L answers.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torchmetrics import MetricCollection

from mae_vlm.data.summary import Summary
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.heads.base import Head
from mae_vlm.heads.parts.word_drawing import word_sheet
from mae_vlm.pairing.answer_scores import AnswerScores
from mae_vlm.pairing.answering import Answering
from mae_vlm.types import Answer, Batch, Loss, Prediction, Question, Said


class AnswerQuestions(Head):
    """Visual question answering by choosing an answer, see :class:`mae_vlm.pairing.answering.Answering`; needs text and fusion towers.

    The answer's tensors are ``logits`` ``[R, answers]`` and ``picture`` ``[R]``. Validation logs ``vqa_accuracy``, ``exact_match`` and
    ``exact_match_open`` over all questions (:class:`mae_vlm.pairing.answer_scores.AnswerScores`), also those whose answer is not among the
    known ones.

    Args:
        towers, weight: see :class:`Head`.
        classes: the answers to choose from. The CLI takes them from the training data.
        least, most: which it takes: those that are the commonest answer of at least ``least`` questions, ``most`` at most (VQAv2's usual
            3129 are those of 9 questions or more).
        loss: binary, as ViLT has it, or cross_entropy, for questions with one right answer.
        questions: of a picture in a training step at most, drawn by its key; validation asks all.
        picture: False is the blind control: the same network, shown zeros in the picture's place.

    Raises:
        ValueError: a tower is missing, or an option out of its range.
    """

    learns: ClassVar[str] = "answers"
    views: ClassVar[tuple[str, ...]] = ("full", "text", "fused")
    column: ClassVar[str] = "answer"
    best = ("vqa_accuracy", True)

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
        self.answering = Answering(towers, classes, loss, questions, picture)
        self.names, self.classes = self.answering.names, len(self.answering.names)

    def check(self, summary: Summary) -> None:
        if "questions" not in summary.known:
            raise ValueError(f"{summary.path or 'the collection'} has no questions; name data.question_column and data.answer_column")

    def forward(self, features: Features) -> Answer:
        answered = self.answering(features)
        return Answer({"logits": answered.logits_RL, "picture": answered.picture_R})

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {self.answering.loss: self.answering.count(batch)}

    def loss(self, answer: Answer, batch: Batch) -> Loss:
        return Loss.of({self.answering.loss: self.answering.term(answer["logits"], batch)})

    def metrics(self) -> MetricCollection:
        return MetricCollection({"answers": AnswerScores()})

    def measure(self, metrics: MetricCollection, answer: Answer, batch: Batch) -> None:
        asked = [one for some in self.answering.asked(batch) for one in some]
        metrics.update(self.answering.said(answer["logits"])[: len(asked)], [one.answers for one in asked])

    def predictions(self, answer: Answer, batch: Batch) -> list[Prediction]:
        told, real = self._told(answer, batch), batch.real_B.tolist()
        return [Prediction(id, said=tuple(one for one, _ in some)) for id, some, keep in zip(batch.ids, told, real, strict=True) if keep]

    def pictures(self, answer: Answer, batch: Batch) -> dict[str, Tensor]:
        """``answers``: each picture above its questions, what is said, and in brackets what people said where that differs."""
        lines = [
            [f"{one.question} {one.text}{'' if one.text in truth.answers else f' ({truth.answers[0]})'}" for one, truth in some]
            for some in self._told(answer, batch)
        ]
        return {"answers": word_sheet(batch, lines)}

    def _told(self, answer: Answer, batch: Batch) -> list[list[tuple[Said, Question]]]:
        """For each picture what is said to each question."""
        said = self.answering.said(answer["logits"])
        scores = self.answering.scores(answer["logits"]).amax(1).tolist()
        rows = iter(zip(said, scores, strict=True))
        return [[(Said(*next(rows), one.text), one) for one in some] for some in self.answering.asked(batch)]
