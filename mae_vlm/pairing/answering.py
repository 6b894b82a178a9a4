"""Questions about pictures, answered by choosing among known answers: what a head and an objective share.

Letters: B pictures, R questions, one below the other, D width, L answers to choose from.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.pairing.asking import asked
from mae_vlm.pairing.blind import shown
from mae_vlm.tokens.answers import normal, people
from mae_vlm.types import Batch, Question, Term

LOSSES = ("binary", "cross_entropy")


@dataclass(frozen=True)
class Answered:
    """Scores of every answer to each question: ``logits_RL``, with ``picture_R`` the picture that each question is about."""

    logits_RL: Tensor
    picture_R: Tensor


class Answering(nn.Module):
    """The fused feature of picture and question through linear, norm, GELU, linear (ViLT, arXiv 2102.03334, and its code).

    In training a picture's questions are those with an answer among the known ones, ``most`` at most, drawn by its key; else all.

    Args:
        towers: with text and fusion.
        classes: the answers to choose from.
        loss: ``binary``, a yes or no for each answer, summed over answers, towards min(1, .3 for each person who gave it); or
            ``cross_entropy`` towards each answer's share of that, where questions have one right answer.
        most: questions of a picture in a training step.
        picture: False shows the fusion tower zeros in the picture's place: the same network, blind.

    Raises:
        ValueError: a tower is missing, fewer than two answers, or an unknown loss.
    """

    def __init__(self, towers: Towers, classes: list[str] | None, loss: str = "binary", most: int = 4, picture: bool = True) -> None:
        super().__init__()
        if loss not in LOSSES:
            raise ValueError(f"loss {loss!r} given, allowed are {', '.join(LOSSES)}")
        if most < 1:
            raise ValueError(f"most {most} given: questions of a picture in a training step, allowed is 1 or more")
        if classes is None or len(classes) < 2:
            raise ValueError(f"classes {classes} given: two or more answers to choose from; the command line takes them from the data")
        towers.told_text()
        width = towers.told_fusion().width
        self.names, self.loss, self.most, self.picture = list(classes), loss, most, picture
        self.numbers = {normal(name): number for number, name in reversed(list(enumerate(classes)))}
        self.dense = nn.Linear(width, 2 * width)
        self.norm = nn.LayerNorm(2 * width)
        self.choose = nn.Linear(2 * width, len(classes))
        for layer in (self.dense, self.choose):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def asked(self, batch: Batch) -> list[list[Question]]:
        """For each picture the questions that are answered: see the class."""
        return asked(batch, self._known, self.most) if self.training else asked(batch, lambda one: True)

    def _known(self, question: Question) -> bool:
        return any(normal(answer) in self.numbers for answer in question.answers)

    def forward(self, features: Features) -> Answered:
        rows = features.rows([[one.text for one in some] for some in self.asked(features.batch)])
        seen = shown(features.seen.rows(rows.picture_R), self.picture)
        pooled_RD = features.fuse(features.read(rows.words), seen).pooled_BD
        hidden_RD = functional.gelu(self.norm(self.dense(pooled_RD)))
        logits_RL: Tensor = self.choose(hidden_RD)
        return Answered(logits_RL.to(torch.promote_types(logits_RL.dtype, torch.float32)), rows.picture_R)

    def scores(self, logits_RL: Tensor) -> Tensor:
        """From 0 to 1."""
        return logits_RL.sigmoid() if self.loss == "binary" else logits_RL.softmax(1)

    def said(self, logits_RL: Tensor) -> list[str]:
        """The best answer to each question."""
        return [self.names[number] for number in logits_RL.argmax(1).tolist()]

    def count(self, batch: Batch) -> Tensor:
        """How many questions the loss is a mean over: those with an answer among the known ones."""
        return torch.tensor(float(sum(self._known(one) for some in self.asked(batch) for one in some)), device=batch.keys_B.device)

    def term(self, logits_RL: Tensor, batch: Batch) -> Term:
        """The loss as a sum over questions; finite, and with a gradient, where there is none."""
        target_RL, known_R = self.targets(batch, logits_RL)
        if self.loss == "binary":
            error_R = functional.binary_cross_entropy_with_logits(logits_RL, target_RL, reduction="none").sum(1)
        else:
            share_RL = target_RL / target_RL.sum(1, keepdim=True).clamp(min=torch.finfo(target_RL.dtype).tiny)
            error_R = functional.cross_entropy(logits_RL, share_RL, reduction="none")
        return Term((error_R * known_R).sum(), self.count(batch))

    def targets(self, batch: Batch, logits_RL: Tensor) -> tuple[Tensor, Tensor]:
        """How right each answer is ``[R, L]``, min(1, .3 for each person), and of which questions that is known ``[R]``."""
        target_RL = torch.zeros(logits_RL.shape, dtype=logits_RL.dtype)
        for row, question in enumerate(one for some in self.asked(batch) for one in some):
            for answer, times in Counter(normal(one) for one in people(question.answers)).items():
                if answer in self.numbers:
                    target_RL[row, self.numbers[answer]] = min(1.0, 0.3 * times)
        return target_RL.to(logits_RL.device), (target_RL > 0).any(1).to(logits_RL.device)
