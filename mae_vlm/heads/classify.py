"""What is in the picture: one class, several, or a number.

Letters: B pictures, N patches, D width, L classes.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MetricCollection

from mae_vlm.data.summary import Summary
from mae_vlm.encoders.towers import Features, Towers
from mae_vlm.heads.base import Head
from mae_vlm.heads.parts.class_metrics import class_metrics, class_tables, value_metrics
from mae_vlm.heads.parts.mixing import Mixing
from mae_vlm.types import Answer, Batch, Loss, Prediction, Term

_ERRORS = {"l1": functional.l1_loss, "l2": functional.mse_loss, "smooth_l1": functional.smooth_l1_loss}
LOSSES = ("cross_entropy", "binary", *_ERRORS)


class Classify(Head):
    """The mean of the patch tokens, a fresh norm, one linear layer (He et al. 2021, appendix A.1: global pooling).

    The answer's tensor ``logits`` is ``[B, classes]``. The encoder's final norm is not used: this head's own takes its place. A picture
    without a label counts zero.

    Args:
        towers, weight: see :class:`Head`.
        classes: their names in label order, or how many; 1 for a regression. The CLI takes them from the data.
        loss: cross_entropy; binary, a yes or no for each class; or, to learn a number, l1, l2 or smooth_l1.
        smoothing: share of a label's certainty that is spread over all classes.
        mixup, cutmix: the alphas of the shares by which pairs of training pictures are blended, or one is pasted into the other; 0 is off.
        dropout: share of the pooled features that is dropped in training.

    Raises:
        ValueError: an option out of its range, or one that does not go with the loss.
    """

    learns: ClassVar[str] = "classes"
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
    ) -> None:
        super().__init__(towers, weight)
        _check(classes, loss, smoothing, mixup, cutmix, dropout)
        self.names = classes if isinstance(classes, list) else None
        count = len(classes) if isinstance(classes, list) else 1 if loss in _ERRORS and classes is None else classes
        if count is None:
            raise ValueError("a classifier needs its classes, their number or names; the command line takes them from labelled data")
        self.classes, self.term, self.smoothing = count, loss, smoothing
        self.mixing = Mixing(count, mixup, cutmix, smoothing) if mixup or cutmix else None
        width = towers.image.width
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, count)
        nn.init.trunc_normal_(self.linear.weight, std=2e-5)  # all classes alike at first, so that pretrained features are not pulled apart
        nn.init.zeros_(self.linear.bias)
        self.best = ("l2" if loss == "l2" else "l1", False) if loss in _ERRORS else ("top1", True)

    @property
    def mixes(self) -> bool:
        return self.mixing is not None

    def check(self, summary: Summary) -> None:
        where = summary.path or "the collection"
        if summary.classes is None:
            raise ValueError(f"{where} has no labels to learn; put pictures into a folder for each class, or name data.label_column")
        if self.term in _ERRORS:
            return
        if len(summary.classes) != self.classes:
            raise ValueError(f"{where} has {len(summary.classes)} classes, this classifier {self.classes}; give data of the same classes")
        changed = [pair for pair in zip(self.names or [], summary.classes, strict=False) if pair[0] != pair[1]]
        if changed:
            raise ValueError(f"{where} has other classes than this classifier: {changed[0][1]} where it has {changed[0][0]}")

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
        error_B = self._errors(logits_BL, self._targets(batch, logits_BL))
        return Loss.of({self.term: Term((error_B * known_B).sum(), self.counts(batch)[self.term])})

    def metrics(self) -> MetricCollection:
        return value_metrics() if self.term in _ERRORS else class_metrics(self.classes)

    def measure(self, metrics: MetricCollection, answer: Answer, batch: Batch) -> None:
        known_B = self._known_B(batch)
        if self.term in _ERRORS:
            metrics.update(answer["logits"].float()[known_B], self._targets(batch, answer["logits"])[known_B])
        else:
            metrics.update(self._scores(answer), batch.labels_B.masked_fill(~known_B, -1))

    def predictions(self, answer: Answer, batch: Batch) -> list[Prediction]:
        scores_BL, real = self._scores(answer).cpu(), batch.real_B.tolist()
        return [Prediction(id, scores_L) for id, scores_L, keep in zip(batch.ids, scores_BL, real, strict=True) if keep]

    def tables(self, results: dict[str, Tensor]) -> dict[str, list[list[str]]]:
        return {} if self.term in _ERRORS else class_tables(results, self.names or [str(number) for number in range(self.classes)])

    def _scores(self, answer: Answer) -> Tensor:
        logits_BL = answer["logits"].float()
        return logits_BL if self.term in _ERRORS else logits_BL.sigmoid() if self.term == "binary" else logits_BL.softmax(dim=1)

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
        if self.term in _ERRORS:
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
    if isinstance(classes, list | int) and (classes if isinstance(classes, int) else len(classes)) < (1 if loss in _ERRORS else 2):
        raise ValueError(f"classes {classes} given, a classifier needs two or more; for a number to learn set loss l1, l2 or smooth_l1")
