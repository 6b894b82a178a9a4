"""Is a statement about a pair of pictures true.

Letters: B pairs of pictures, R statements, one below the other, D width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MetricCollection

from mae_vlm.data.summary import Summary
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.heads.base import Head
from mae_vlm.heads.parts.reasoning_scores import Accuracy
from mae_vlm.heads.parts.told_truths import told_count, told_loss
from mae_vlm.heads.parts.word_drawing import word_sheet
from mae_vlm.pairing.asking import asked
from mae_vlm.pairing.blind import shown
from mae_vlm.tokens.answers import normal
from mae_vlm.types import Answer, Batch, Loss, Prediction, Question, Said

NAMES = ("false", "true")


class PairReasoning(Head):
    """Statements about two pictures, true or false (NLVR2, Suhr et al. 2019, arXiv 1811.00491); needs text and fusion towers.

    Each picture is fused with the statement on its own; both pooled features, the left one first, go through linear, norm, GELU and
    linear: UNITER's pair (arXiv 1909.11740, 4.1) with ViLT's classifier (arXiv 2102.03334 and its code). A statement is a question
    whose answer is true or false. Validation logs ``accuracy`` over all that have one.

    The answer's tensors are ``logits`` ``[R, 2]``, of false and true, and ``pair`` ``[R]``.

    Args:
        towers, weight: see :class:`Head`.
        statements: of a pair in a training step at most, drawn by its key; validation judges all.
        picture: False is the blind control: the same network, shown zeros in the pictures' places.

    Raises:
        ValueError: a tower is missing, or an option out of its range.
    """

    views: ClassVar[tuple[str, ...]] = ("full", "text", "fused")
    column: ClassVar[str] = "answer"
    best = ("accuracy", True)

    def __init__(self, towers: Towers, weight: float = 1.0, statements: int = 4, picture: bool = True) -> None:
        super().__init__(towers, weight)
        if statements < 1:
            raise ValueError(f"statements {statements} given: of a pair in a training step, allowed is 1 or more")
        towers.told_text()
        width = towers.told_fusion().width
        self.statements, self.picture, self.names, self.classes = statements, picture, list(NAMES), len(NAMES)
        self.dense = nn.Linear(2 * width, 2 * width)
        self.norm = nn.LayerNorm(2 * width)
        self.judge = nn.Linear(2 * width, len(NAMES))
        for layer in (self.dense, self.judge):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def check(self, summary: Summary) -> None:
        lacking = {"questions", "partner"} - summary.known
        if lacking:
            raise ValueError(
                f"{summary.path or 'the collection'} has no statements about pairs of pictures (it lacks {', '.join(sorted(lacking))}); "
                "give NLVR2's files, or scenes://pairs"
            )

    def asked(self, batch: Batch) -> list[list[Question]]:
        """For each pair the statements that are judged: in training those of which the truth is known."""
        return asked(batch, lambda one: _truth(one) >= 0, self.statements) if self.training else asked(batch, lambda one: True)

    def forward(self, features: Features) -> Answer:
        rows = features.rows([[one.text for one in some] for some in self.asked(features.batch)])
        text = features.read(rows.words)
        views = [shown(one.seen.rows(rows.picture_R), self.picture) for one in (features, _partner(features))]
        pooled_R2D = torch.cat([features.fuse(text, seen).pooled_BD for seen in views], dim=1)
        logits_R2: Tensor = self.judge(functional.gelu(self.norm(self.dense(pooled_R2D))))
        return Answer({"logits": logits_R2.to(torch.promote_types(logits_R2.dtype, torch.float32)), "pair": rows.picture_R})

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return told_count(self._truths(batch), batch.keys_B.device)

    def loss(self, answer: Answer, batch: Batch) -> Loss:
        return told_loss(answer["logits"], self._truths(batch))

    def _truths(self, batch: Batch) -> list[int]:
        return [_truth(one) for some in self.asked(batch) for one in some]

    def metrics(self) -> MetricCollection:
        return MetricCollection({"accuracy": Accuracy()})

    def measure(self, metrics: MetricCollection, answer: Answer, batch: Batch) -> None:
        said = answer["logits"].argmax(1).tolist()
        metrics.update([one == truth for one, truth in zip(said, self._truths(batch), strict=False) if truth >= 0])

    def predictions(self, answer: Answer, batch: Batch) -> list[Prediction]:
        told, real = self._told(answer, batch), batch.real_B.tolist()
        return [Prediction(id, said=tuple(some)) for id, some, keep in zip(batch.ids, told, real, strict=True) if keep]

    def pictures(self, answer: Answer, batch: Batch) -> dict[str, Tensor]:
        """``pairs``: both pictures of each pair side by side above its statements, what is said of them, and in brackets what is true."""
        assert batch.partner_BCHW is not None, "the forward pass has seen it"
        truths = [[one.answers[0] if one.answers else "?" for one in some] for some in self.asked(batch)]
        lines = [
            [f"{one.question} {one.text} ({truth})" for one, truth in zip(some, true, strict=True)]
            for some, true in zip(self._told(answer, batch), truths, strict=True)
        ]
        return {"pairs": word_sheet(replace(batch, images_BCHW=torch.cat([batch.images_BCHW, batch.partner_BCHW], dim=3)), lines)}

    def _told(self, answer: Answer, batch: Batch) -> list[list[Said]]:
        """What is said of each statement, pair by pair."""
        scores_R, said_R = answer["logits"].softmax(1).max(1)
        rows = zip(said_R.tolist(), scores_R.tolist(), strict=True)
        return [[Said(NAMES[said], score, one.text) for one, (said, score) in zip(some, rows, strict=False)] for some in self.asked(batch)]


def _truth(statement: Question) -> int:
    """1 where it is true, 0 where it is false, -1 where that is not told."""
    told = {normal(answer) for answer in statement.answers}
    return NAMES.index(told.pop()) if len(told) == 1 and told <= set(NAMES) else -1


def _partner(features: Features) -> Features:
    """The right pictures of the pairs, through the same towers.

    Raises:
        ValueError: the batch holds single pictures.
    """
    if features.batch.partner_BCHW is None:
        raise ValueError("single pictures given, statements are about pairs; give a collection of pairs, such as NLVR2 or scenes://pairs")
    right = features.apart()
    right.batch = replace(features.batch, images_BCHW=features.batch.partner_BCHW, partner_BCHW=None)
    return right
