"""How good class scores are: single numbers, and tables of every class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassPrecisionRecallCurve,
)

CONFUSION, CURVES = "confusion", "precision_recall"
_MOST_CLASSES = 200  # with more, curves and the matrix take more memory than anybody looks at
_THRESHOLDS = 50


def class_metrics(classes: int) -> MetricCollection:
    """Of scores ``[B, classes]`` and labels ``[B]``, -1 where one counts zero.

    ``top1``, ``top5`` (with more than 5 classes), ``f1`` (mean over the classes that occur or were answered) and ``calibration_error``
    (expected, 15 bins of the highest score); ``confusion`` ``[true, answered]`` and binned ``precision_recall`` for up to 200 classes.
    """
    known: dict[str, Any] = {"num_classes": classes, "ignore_index": -1, "validate_args": False}
    found: dict[str, Metric | MetricCollection] = {"top1": MulticlassAccuracy(average="micro", **known)}
    found["f1"] = MulticlassF1Score(average="macro", **known)
    if classes > 5:
        found["top5"] = MulticlassAccuracy(average="micro", top_k=5, **known)
    found["calibration_error"] = MulticlassCalibrationError(n_bins=15, **known)
    if classes <= _MOST_CLASSES:
        found[CONFUSION] = MulticlassConfusionMatrix(**known)
        found[CURVES] = MulticlassPrecisionRecallCurve(thresholds=_THRESHOLDS, **known)
    return MetricCollection(found, compute_groups=False)


def value_metrics() -> MetricCollection:
    """Of values and targets ``[known, values]``: mean absolute error ``l1`` and mean squared error ``l2``."""
    return MetricCollection({"l1": MeanAbsoluteError(), "l2": MeanSquaredError()}, compute_groups=False)


def class_tables(results: dict[str, Tensor], names: list[str]) -> dict[str, list[list[str]]]:
    """``classes``: pictures, precision, recall and F1 of each class, empty where one never occurs; and the ``confusion`` matrix."""
    if CONFUSION not in results:
        return {}
    matrix_LL = results[CONFUSION].double()
    right_L, true_L, said_L = matrix_LL.diag(), matrix_LL.sum(1), matrix_LL.sum(0)
    rows = [["class", "pictures", "precision", "recall", "f1"]]
    for name, right, true, said in zip(names, right_L.tolist(), true_L.tolist(), said_L.tolist(), strict=True):
        shares = [_share(right, said), _share(right, true), _share(2 * right, true + said)]
        rows.append([name, str(int(true)), *shares])
    matrix = [["true \\ answered", *names]]
    matrix += [[name, *map(str, row)] for name, row in zip(names, matrix_LL.to(torch.int64).tolist(), strict=True)]
    return {"classes": rows, "confusion": matrix}


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.4f}" if whole else ""
