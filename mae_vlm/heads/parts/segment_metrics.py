"""How good class maps are: all from one confusion matrix over the whole set.

Letters: H, W pixels, L classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from mae_vlm.heads.parts.class_metrics import CONFUSION

_MOST_NAMED = 200  # with more classes nobody looks at the matrix


class Confusion(Metric):
    """Counts pixels by true and answered class: the matrix ``confusion`` [true, answered], and ``miou`` and ``pixel_accuracy`` of it.

    ``miou`` is the mean intersection over union of the classes that occur in truth or answers; NaN where no pixel is known. It equals
    torchmetrics' MulticlassJaccardIndex (macro). Counts are whole numbers, so that processes add up to exactly the same.
    """

    full_state_update = False
    matrix_LL: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.add_state("matrix_LL", torch.zeros(classes, classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, answered: Tensor, true: Tensor) -> None:
        """Add class numbers of one shape; pixels whose true class is -1 count zero."""
        known = true >= 0
        pair = torch.where(known, true.long() * self.classes + answered.long(), self.classes**2)
        counts = torch.bincount(pair.flatten(), minlength=self.classes**2 + 1)
        self.matrix_LL += counts[:-1].view(self.classes, self.classes)

    def compute(self) -> dict[str, Tensor]:
        """The two numbers, float32, and the matrix, int64."""
        iou_L, right = ious(self.matrix_LL), self.matrix_LL.diag().sum()
        accuracy = (right / self.matrix_LL.sum()).float()
        return {"miou": iou_L.nanmean().float(), "pixel_accuracy": accuracy, CONFUSION: self.matrix_LL.clone()}


def segment_metrics(classes: int) -> MetricCollection:
    """Of class numbers ``[..., H, W]`` and true ones, see :class:`Confusion`."""
    return MetricCollection({"segment": Confusion(classes)}, compute_groups=False)


def ious(matrix_LL: Tensor) -> Tensor:
    """Intersection over union of each class, float64 ``[L]``; NaN for a class that neither occurs nor was answered."""
    counts_LL = matrix_LL.double()
    right_L = counts_LL.diag()
    return right_L / (counts_LL.sum(0) + counts_LL.sum(1) - right_L)


def segment_tables(results: dict[str, Tensor], names: list[str]) -> dict[str, list[list[str]]]:
    """``classes``: pixels, IoU, precision and recall of each class that occurs or was answered; the ``confusion`` matrix of up to 200."""
    matrix_LL = results[CONFUSION]
    rows = [["class", "pixels", "iou", "precision", "recall"]]
    shares = zip(ious(matrix_LL).tolist(), *(_shares(matrix_LL, along) for along in (0, 1)), strict=True)
    for name, pixels, (iou, precision, recall) in zip(names, matrix_LL.sum(1).tolist(), shares, strict=True):
        if iou == iou:  # not NaN
            rows.append([name, str(pixels), *("" if share != share else f"{share:.4f}" for share in (iou, precision, recall))])
    tables = {"classes": rows}
    if len(names) <= _MOST_NAMED:
        matrix = [[name, *map(str, row)] for name, row in zip(names, matrix_LL.tolist(), strict=True)]
        tables["confusion"] = [["true \\ answered", *names], *matrix]
    return tables


def _shares(matrix_LL: Tensor, along: int) -> list[float]:
    """Of the pixels answered as each class (along 0), or truly of it (along 1), the share that is both; NaN of none."""
    shares: list[float] = (matrix_LL.diag().double() / matrix_LL.sum(along)).tolist()
    return shares
