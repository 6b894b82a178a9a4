"""How good the masks of objects are: COCO's average precision.

Letters: N predicted masks, G true ones, H, W pixels, L classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

PRECISIONS = "mask_classes"
_IOUS = np.linspace(0.5, 0.95, 10).tolist()
_RECALLS = np.linspace(0.0, 1.0, 101).tolist()  # in double precision: torchmetrics' own, of single, are not COCO's
MOST = 100  # predictions of a picture that COCO looks at


class MaskPrecision(MeanAveragePrecision):
    """``mask_map`` (mean over IoU 0.5 to 0.95), ``mask_map50`` and ``mask_map75``; 0 where there is nothing to find.

    ``mask_classes`` ``[L, 2]`` are the first two for each class, NaN where it never occurs. Masks are kept run-length encoded.
    In a job of several processes each must add the same number of pictures: padding as one without masks.
    """

    def __init__(self, classes: int, backend: Any = "faster_coco_eval") -> None:
        super().__init__(iou_type="segm", iou_thresholds=_IOUS, rec_thresholds=_RECALLS, extended_summary=True, backend=backend)
        self.of = classes
        self.warn_on_many_detections = False

    def add(
        self, masks_NHW: Tensor, scores_N: Tensor, classes_N: Tensor, true_GHW: Tensor, classes_G: Tensor, crowds_G: Tensor, areas_G: Tensor
    ) -> None:
        """Add one picture: at most 100 bool masks with scores, the true ones, and their areas in pixels of the original picture."""
        found = {"masks": masks_NHW, "scores": scores_N, "labels": classes_N}
        true = {"masks": true_GHW, "labels": classes_G, "iscrowd": crowds_G.long(), "area": areas_G}
        self.update([found], [true])

    def compute(self) -> dict[str, Tensor]:
        found = super().compute()
        results = {f"mask_{ours}": found[theirs].float().clamp(min=0) for ours, theirs in _NAMES.items()}
        return results | {PRECISIONS: self._of_classes(found)}

    def _of_classes(self, found: dict[str, Any]) -> Tensor:
        table_L2 = torch.full((self.of, 2), float("nan"))
        if "precision" in found:  # IoU thresholds, recalls, classes, areas, numbers of predictions; -1 where a class has no object
            precision_TRL = found["precision"][:, :, :, 0, -1].float()
            known = precision_TRL.masked_fill(precision_TRL < 0, float("nan"))
            rows = found["classes"].reshape(-1).long()
            table_L2[rows] = torch.stack([known.mean(dim=(0, 1)), known[0].mean(dim=0)], dim=1)
        return table_L2


_NAMES = {"map": "map", "map50": "map_50", "map75": "map_75"}


def precision_table(values_L2: Tensor, names: list[str]) -> list[list[str]]:
    """A row for each class, empty where it never occurs."""
    rows = [["class", "mask_map", "mask_map50"]]
    for name, values in zip(names, values_L2.tolist(), strict=True):
        rows.append([name, *("" if value != value else f"{value:.4f}" for value in values)])
    return rows
