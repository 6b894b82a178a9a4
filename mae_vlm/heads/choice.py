"""Which of a question's candidate answers is right.

Letters: B pictures, Q questions, one below the other, R candidates of all of them, K candidates of one, D width.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MetricCollection

from mae_vlm.data.summary import Summary
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.heads.base import Head
from mae_vlm.heads.parts.reasoning_scores import ChoiceScores
from mae_vlm.heads.parts.told_truths import told_count, told_loss
from mae_vlm.heads.parts.word_drawing import word_sheet
from mae_vlm.pairing.asking import asked
from mae_vlm.pairing.blind import shown
from mae_vlm.types import Answer, Batch, Loss, Prediction, Question, Said


class MultipleChoice(Head):
    """Questions whose answers are chosen from some candidates each (VCR, Zellers et al. 2019, arXiv 1811.10830).

    It needs text and fusion towers. Each candidate, behind its question, is fused with the picture and has one score: linear, norm, GELU,
    linear of the pooled feature. The loss is the cross-entropy of the softmax over the candidates of a question. Validation logs
    ``accuracy``, and where reasons are asked for ``rationale_accuracy`` and ``both_accuracy``
    (:class:`mae_vlm.heads.parts.reasoning_scores.ChoiceScores`).

    The answer's tensor is ``logits`` ``[Q, K]``, -inf where a question has fewer candidates.

    Args:
        towers, weight: see :class:`Head`.
        questions: of a picture in a training step at most, drawn by its key; validation asks all.
        picture: False is the blind control: the same network, shown zeros in the picture's place.

    Raises:
        ValueError: a tower is missing, or an option out of its range.
    """

    views: ClassVar[tuple[str, ...]] = ("full", "text", "fused")
    column: ClassVar[str] = "answer"
    best = ("accuracy", True)

    def __init__(self, towers: Towers, weight: float = 1.0, questions: int = 2, picture: bool = True) -> None:
        super().__init__(towers, weight)
        if questions < 1:
            raise ValueError(f"questions {questions} given: of a picture in a training step, allowed is 1 or more")
        towers.told_text()
        width = towers.told_fusion().width
        self.questions, self.picture = questions, picture
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, 1, bias=False)  # a bias of all candidates changes no softmax
        for layer in (self.dense, self.score):
            nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)

    def check(self, summary: Summary) -> None:
        if "choices" not in summary.known:
            raise ValueError(
                f"{summary.path or 'the collection'} has no questions with candidates to choose from; give VCR's files, or scenes://choices"
            )

    def asked(self, batch: Batch) -> list[list[Question]]:
        """For each picture the questions with candidates: in training those of which the right one is known."""
        if self.training:
            return asked(batch, lambda one: _truth(one) >= 0, self.questions)
        return asked(batch, lambda one: len(one.choices) > 0)

    def forward(self, features: Features) -> Answer:
        every = self.asked(features.batch)
        rows = features.rows([[f"{one.text} {choice}" for one in some for choice in one.choices] for some in every])
        seen = shown(features.seen.rows(rows.picture_R), self.picture)
        pooled_RD = features.fuse(features.read(rows.words), seen).pooled_BD
        logits_R: Tensor = self.score(functional.gelu(self.norm(self.dense(pooled_RD))))[:, 0]
        logits_R = logits_R.to(torch.promote_types(logits_R.dtype, torch.float32))
        counts = [len(one.choices) for some in every for one in some] or [len(logits_R)]
        parts = [part_K if len(part_K) == max(counts) else _filled(part_K, max(counts)) for part_K in torch.split(logits_R, counts)]
        return Answer({"logits": torch.stack(parts)})

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return told_count(self._truths(batch), batch.keys_B.device)

    def loss(self, answer: Answer, batch: Batch) -> Loss:
        return told_loss(answer["logits"], self._truths(batch))

    def _truths(self, batch: Batch) -> list[int]:
        return [_truth(one) for some in self.asked(batch) for one in some]

    def metrics(self) -> MetricCollection:
        return MetricCollection({"choices": ChoiceScores()})

    def measure(self, metrics: MetricCollection, answer: Answer, batch: Batch) -> None:
        every = [one for some in self.asked(batch) for one in some]
        right = [
            None if _truth(one) < 0 else one.choices[said] in one.answers
            for one, said in zip(every, answer["logits"].argmax(1).tolist(), strict=False)
        ]
        metrics.update(right, [one.rationale for one in every])

    def predictions(self, answer: Answer, batch: Batch) -> list[Prediction]:
        told, real = self._told(answer, batch), batch.real_B.tolist()
        return [Prediction(id, said=tuple(some)) for id, some, keep in zip(batch.ids, told, real, strict=True) if keep]

    def pictures(self, answer: Answer, batch: Batch) -> dict[str, Tensor]:
        """``choices``: each picture above its questions, what is chosen, and in brackets what is right where that differs."""
        every = self.asked(batch)
        lines = [
            [f"{said.question} {said.text}{_correction(said.text, one)}" for said, one in zip(told, some, strict=True)]
            for told, some in zip(self._told(answer, batch), every, strict=True)
        ]
        return {"choices": word_sheet(batch, lines)}

    def _told(self, answer: Answer, batch: Batch) -> list[list[Said]]:
        """What is chosen for each question, picture by picture."""
        scores_Q, said_Q = answer["logits"].softmax(1).max(1)
        rows = zip(said_Q.tolist(), scores_Q.tolist(), strict=True)
        every = self.asked(batch)
        return [[Said(one.choices[said], score, one.text) for one, (said, score) in zip(some, rows, strict=False)] for some in every]


def _truth(question: Question) -> int:
    """Which of the candidates is right, -1 where that is not told."""
    return next((number for number, choice in enumerate(question.choices) if choice in question.answers), -1)


def _filled(part_K: Tensor, count: int) -> Tensor:
    return functional.pad(part_K, (0, count - len(part_K)), value=float("-inf"))


def _correction(said: str, question: Question) -> str:
    truth = _truth(question)
    return "" if truth < 0 or said in question.answers else f" ({question.choices[truth]})"
