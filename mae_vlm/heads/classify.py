"""What is in the picture: one class, several, or a number.

Letters: B pictures, N patches, D width, L classes.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MetricCollection

from mae_vlm.data.summary import Summary
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.heads.base import Head
from mae_vlm.heads.parts.class_metrics import class_metrics, class_tables, value_metrics
from mae_vlm.heads.parts.class_names import check_classes
from mae_vlm.heads.parts.mixing import Mixing
from mae_vlm.heads.parts.several_metrics import several_metrics
from mae_vlm.types import Answer, Batch, Loss, Prediction, Term

_ERRORS = {"l1": functional.l1_loss, "l2": functional.mse_loss, "smooth_l1": functional.smooth_l1_loss}
LOSSES = ("cross_entropy", "binary", *_ERRORS)


class Classify(Head):
    """The mean of the patch tokens, a fresh norm, one linear layer (He et al. 2021, appendix A.1: global pooling).

    The answer's tensor ``logits`` is ``[B, classes]``. The encoder's final norm is not used: this head's own takes its place. A picture
    without a label counts zero. Pictures of several classes each, or with numbers to learn, come from a column of a list or a table that
    holds lists or fractions (``data.label_column``).

    Args:
        towers, weight: see :class:`Head`.
        classes: their names in label order, or how many; of a regression how many numbers. The CLI takes them from the data.
        loss: cross_entropy; binary, a yes or no for each class; or, to learn a number, l1, l2 or smooth_l1.
        smoothing: share of a label's certainty that is spread over all classes.
        mixup, cutmix: the alphas of the shares by which pairs of training pictures are blended, or one is pasted into the other; 0 is off.
        dropout: share of the pooled features that is dropped in training.
        centre, spread: of a regression, mean and deviation of each number: the layer's answer is in deviations from the mean, and so is the
            loss. The CLI takes them from the data; without them 0 and 1.

    Raises:
        ValueError: an option out of its range, or one that does not go with the loss.
    """

    learns: ClassVar[str] = "classes"
    centre: Tensor
    spread: Tensor
    normed: ClassVar[bool] = False

    def __init__(
        self,
        towers: Towers,
        weight: float = 1.0,
        classes: int | list[str] | None = None,
        loss: str = "cross_entropy",
        smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        dropout: float = 0.0,
        centre: list[float] | None = None,
        spread: list[float] | None = None,
    ) -> None:
        super().__init__(towers, weight)
        _check(classes, loss, smoothing, mixup, cutmix, dropout)
        self.names = classes if isinstance(classes, list) else None
        count = len(classes) if isinstance(classes, list) else 1 if loss in _ERRORS and classes is None else classes
        if count is None:
            raise ValueError("a classifier needs its classes, their number or names; the command line takes them from labelled data")
        self.classes, self.term, self.smoothing, self.numeric = count, loss, smoothing, loss in _ERRORS
        _check_moments(centre, spread, count if self.numeric else 0)
        self.register_buffer("centre", torch.tensor(centre or [0.0] * count), persistent=False)
        self.register_buffer("spread", torch.tensor(spread or [1.0] * count), persistent=False)
        self.mixing = Mixing(count, mixup, cutmix, smoothing) if mixup or cutmix else None
        width = towers.image.width
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, count)
        nn.init.trunc_normal_(self.linear.weight, std=2e-5)  # all classes alike at first, so that pretrained features are not pulled apart
        nn.init.zeros_(self.linear.bias)
        self.best = ("l2" if loss == "l2" else "l1", False) if self.numeric else ("map" if loss == "binary" else "top1", True)

    @property
    def mixes(self) -> bool:
        return self.mixing is not None

    def check(self, summary: Summary) -> None:
        where = summary.path or "the collection"
        if self.numeric:
            _check_numbers(summary, self.classes, self.term)
            return
        if summary.numbers is not None:
            raise ValueError(f"{where} has numbers to learn, no classes for loss {self.term}; set loss l1, l2 or smooth_l1")
        if summary.several and (self.term != "binary" or self.smoothing or self.mixing is not None):
            raise ValueError(f"pictures of {where} have several classes each; set loss binary, without smoothing, mixup and cutmix")
        check_classes(summary, self.names, self.classes)

    def prepare(self, batch: Batch) -> Batch:
        return batch if self.mixing is None else self.mixing(batch)

    def forward(self, features: Features) -> Answer:
        tokens_BND = features.full.unnormed_BND
        assert tokens_BND is not None
        return Answer({"logits": self.linear(self.dropout(self.norm(tokens_BND.mean(dim=1))))})

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {self.term: self._known_B(batch).sum().float()}

    def loss(self, answer: Answer, batch: Batch) -> Loss:
        known_B = self._known_B(batch)
        logits_BL = answer["logits"].float()
        error_B = self._errors(logits_BL, self._scaled(self._targets(batch, logits_BL)))
        return Loss.of({self.term: Term((error_B * known_B).sum(), self.counts(batch)[self.term])})

    def metrics(self) -> MetricCollection:
        if self.numeric:
            return value_metrics()
        return several_metrics(self.classes) if self.term == "binary" else class_metrics(self.classes)

    def measure(self, metrics: MetricCollection, answer: Answer, batch: Batch) -> None:
        known_B = self._known_B(batch)
        scores_BL = self._scores(answer)
        if self.numeric:
            metrics.update(scores_BL[known_B], self._targets(batch, scores_BL)[known_B])
        elif self.term == "binary":
            metrics.update(scores_BL, self._targets(batch, scores_BL).long().masked_fill(~known_B[:, None], -1))
        else:
            metrics.update(scores_BL, batch.labels_B.masked_fill(~known_B, -1))

    def predictions(self, answer: Answer, batch: Batch) -> list[Prediction]:
        scores_BL, real = self._scores(answer).cpu(), batch.real_B.tolist()
        return [Prediction(id, scores_L) for id, scores_L, keep in zip(batch.ids, scores_BL, real, strict=True) if keep]

    def tables(self, results: dict[str, Tensor]) -> dict[str, list[list[str]]]:
        return {} if self.numeric else class_tables(results, self.names or [str(number) for number in range(self.classes)])

    def _scores(self, answer: Answer) -> Tensor:
        logits_BL = answer["logits"].float()
        if self.numeric:
            return logits_BL * self.spread + self.centre
        return logits_BL.sigmoid() if self.term == "binary" else logits_BL.softmax(dim=1)

    def _scaled(self, target_BL: Tensor) -> Tensor:
        """What the layer is to answer: numbers in deviations from their mean."""
        return (target_BL - self.centre) / self.spread if self.numeric else target_BL

    def _known_B(self, batch: Batch) -> Tensor:
        """Whose target is known and counts."""
        labelled_B = batch.labels_B >= 0
        if batch.soft_labels_BL is not None:
            labelled_B = labelled_B | ~batch.soft_labels_BL.isnan().any(dim=1)
        return labelled_B & batch.real_B

    def _targets(self, batch: Batch, logits_BL: Tensor) -> Tensor:
        """``[B, classes]``: shares of the classes, yes or no for each, or the values; anything where none is known."""
        if batch.soft_labels_BL is not None:
            return batch.soft_labels_BL.to(logits_BL.dtype).nan_to_num(0.0)
        labels_B = batch.labels_B.clamp(min=0)
        if self.numeric:
            return labels_B[:, None].to(logits_BL.dtype).expand_as(logits_BL)
        exact_BL = functional.one_hot(labels_B, self.classes).to(logits_BL.dtype)
        return exact_BL * (1 - self.smoothing) + self.smoothing / self.classes if self.training else exact_BL

    def _errors(self, logits_BL: Tensor, target_BL: Tensor) -> Tensor:
        """The loss of each picture ``[B]``; of several classes or values the mean."""
        if self.term == "cross_entropy":
            return functional.cross_entropy(logits_BL, target_BL, reduction="none")
        error = _ERRORS.get(self.term) or partial(functional.binary_cross_entropy_with_logits)
        error_BL: Tensor = error(logits_BL, target_BL, reduction="none")
        return error_BL.mean(dim=1)


def _check_numbers(summary: Summary, count: int, loss: str) -> None:
    where = summary.path or "the collection"
    if summary.numbers is None:
        raise ValueError(f"{where} has no numbers for loss {loss}; name data.label_column, for whole ones set data.label_kind number")
    if len(summary.numbers[0]) != count:
        raise ValueError(f"{where} has {len(summary.numbers[0])} numbers a picture to learn, this head {count}; give data of the same")


def _check_moments(centre: list[float] | None, spread: list[float] | None, count: int) -> None:
    for option, values in (("centre", centre), ("spread", spread)):
        if values is not None and len(values) != count:
            raise ValueError(f"{option} {values} has {len(values)} numbers for a head that learns {count}; give one for each, or none")
    if spread is not None and min(spread) <= 0:
        raise ValueError(f"spread {spread} must be positive: the deviation of each number")


def _check(classes: int | list[str] | None, loss: str, smoothing: float, mixup: float, cutmix: float, dropout: float) -> None:
    if loss not in LOSSES:
        raise ValueError(f"loss {loss!r} given, allowed are {', '.join(LOSSES)}")
    if not 0 <= smoothing < 1 or not 0 <= dropout < 1:
        raise ValueError(f"smoothing {smoothing} and dropout {dropout} must be shares from 0 to below 1")
    if mixup < 0 or cutmix < 0:
        raise ValueError(f"mixup {mixup} and cutmix {cutmix} must be 0 (off) or more")
    if loss in _ERRORS and (smoothing or mixup or cutmix):
        raise ValueError(
            f"smoothing {smoothing}, mixup {mixup}, cutmix {cutmix} go with classes, and loss {loss} with numbers; set them to 0"
        )
    if isinstance(classes, list | int) and (classes if isinstance(classes, int) else len(classes)) < (2 if loss == "cross_entropy" else 1):
        raise ValueError(f"classes {classes} given, a classifier needs two or more; for a number to learn set loss l1, l2 or smooth_l1")
