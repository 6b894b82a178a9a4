"""How good detected boxes are: COCO's average precision, and the score from which on they are worth showing.

Letters: P pictures, N detections, G true objects, L classes, T thresholds, R recalls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.detection import MeanAveragePrecision
from torchvision.ops import box_area

from mae_vlm.heads.parts.box_matching import best_threshold, hits
from mae_vlm.heads.parts.class_metrics import CURVES

MOST = 100  # detections of a picture that COCO looks at
CLASSES = "box_classes"
# COCO's own, in double precision: torchmetrics' (1.9) are rounded to float32, and a recall of exactly 0.3 then misses its threshold
_IOUS = np.linspace(0.5, 0.95, 10).tolist()
_RECALLS = np.linspace(0.0, 1.0, 101).tolist()
_ALWAYS = {"box_map": "map", "box_map50": "map_50", "box_map75": "map_75", "box_mar": "mar_100"}
_SIZES = {"box_map_small": "map_small", "box_map_medium": "map_medium", "box_map_large": "map_large"}  # where objects of that size are


class Truth(NamedTuple):
    """What is in one picture, in pixels of the original: boxes ``[G, 4]``, classes and crowds ``[G]``."""

    boxes_G4: Tensor
    classes_G: Tensor
    crowds_G: Tensor


class BoxPrecision(Metric):
    """``box_map`` (mean over IoU 0.5 to 0.95), ``box_map50``, ``box_map75``, ``box_mar`` (recall with 100), and those of COCO's sizes.

    A class or size without an object does not count; 0 where there is nothing to find. ``box_threshold`` is the score from which on the
    detections have the highest F1 at IoU 0.5, over all classes; ``box_f1``, ``box_precision`` and ``box_recall`` are of those. Regions of
    many objects (crowds) are neither found nor missed. ``box_classes`` ``[L, 3]``: AP, AP50 and objects of each class, NaN where none
    is; ``precision_recall``: precision ``[L, R]`` at IoU 0.5 over recalls ``[L, R]``.

    Keeps some 3 kB of a picture with 100 detections, 50 bytes of each object. Processes exchange all and compute alike, sorted by key:
    the result does not depend on how pictures are dealt.

    Args:
        classes: how many.
        keep: called with ``box_threshold`` when it is computed and there was anything to find, on every process.
        backend: of torchmetrics: faster_coco_eval or pycocotools.
    """

    full_state_update = False
    found_keys: list[Tensor]
    found: list[Tensor]
    true_keys: list[Tensor]
    true: list[Tensor]

    def __init__(self, classes: int, keep: Callable[[float], None] | None = None, backend: Any = "faster_coco_eval") -> None:
        super().__init__()
        self.classes, self.keep, self.backend = classes, keep, backend
        for name in ("found_keys", "found", "true_keys", "true"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, keys: list[int], found: list[tuple[Tensor, Tensor, Tensor]], true: list[Truth]) -> None:
        """Add pictures, each once: a number of its own, its boxes with scores and classes, the highest first, and what is there.

        Every process must call it, also one that has no picture.
        """
        self._add(
            self.found, self.found_keys, keys, [(boxes_N4[:MOST], scores_N[:MOST], kinds_N[:MOST]) for boxes_N4, scores_N, kinds_N in found]
        )
        self._add(self.true, self.true_keys, keys, [tuple(one) for one in true])

    def _add(self, rows: list[Tensor], rows_key: list[Tensor], keys: list[int], parts: list[Any]) -> None:
        """One tensor ``[rows, 6]`` of boxes and two further columns, and each row's key; an empty one too, which has their type."""
        made = [
            torch.cat([boxes.float(), first.float()[:, None], second.float()[:, None]], 1).to(self.device) for boxes, first, second in parts
        ]
        rows.append(torch.cat([torch.zeros(0, 6, device=self.device), *made]))
        counts = torch.tensor([len(one) for one in made], dtype=torch.int64, device=self.device)
        rows_key.append(torch.tensor(keys, dtype=torch.int64, device=self.device).repeat_interleave(counts))

    def compute(self) -> dict[str, Any]:
        found, true = self._pictures()
        precision = MeanAveragePrecision(
            iou_thresholds=_IOUS, rec_thresholds=_RECALLS, extended_summary=True, backend=self.backend, sync_on_compute=False
        )
        precision.update([_detected(one) for one in found], [_annotated(one) for one in true])
        said = precision.compute()
        results = {ours: said[theirs].float().clamp(min=0) for ours, theirs in _ALWAYS.items()}
        results |= {ours: said[theirs].float() for ours, theirs in _SIZES.items() if said[theirs] >= 0}
        return results | self._shown(found, true) | self._of_classes(said, true)

    def _pictures(self) -> tuple[list[Tensor], list[Tensor]]:
        """Rows of detections ``[N, 6]`` and of objects ``[G, 6]`` of each picture that has any of either, by key, on the CPU."""
        found_keys, found, true_keys, true = (
            _whole(part, width) for part, width in ((self.found_keys, 0), (self.found, 6), (self.true_keys, 0), (self.true, 6))
        )
        keys = torch.unique(torch.cat([found_keys, true_keys]))
        return _by_key(found, found_keys, keys), _by_key(true, true_keys, keys)

    def _shown(self, found: list[Tensor], true: list[Tensor]) -> dict[str, Tensor]:
        judged = [hits(detected, annotated) for detected, annotated in zip(found, true, strict=True)]
        count = sum(int((one[:, 5] == 0).sum()) for one in true)
        scores_N = torch.cat([one[:, 4] for one in found]) if found else torch.zeros(0)
        right_N, open_N = (torch.cat(part) if judged else scores_N.bool() for part in (list(zip(*judged, strict=True)) or [(), ()]))
        best = best_threshold(scores_N[~open_N], right_N[~open_N], count)
        if self.keep is not None and best.f1 > 0:
            self.keep(best.threshold)
        return {f"box_{name}": torch.tensor(value) for name, value in best._asdict().items()}

    def _of_classes(self, said: dict[str, Any], true: list[Tensor]) -> dict[str, Any]:
        table_L3 = torch.full((self.classes, 3), float("nan"))
        objects_G6 = torch.cat(true) if true else torch.zeros(0, 6)
        table_L3[:, 2] = objects_G6[objects_G6[:, 5] == 0][:, 4].long().bincount(minlength=self.classes).float()
        results: dict[str, Any] = {CLASSES: table_L3}
        if "precision" in said:  # T thresholds, R recalls, classes that occur, sizes, numbers of detections; -1 where there is no object
            precision_TRK = said["precision"][:, :, :, 0, -1].float()
            known = precision_TRK.masked_fill(precision_TRK < 0, float("nan"))
            rows = said["classes"].reshape(-1).long()
            table_L3[rows, 0], table_L3[rows, 1] = known.mean(dim=(0, 1)), known[0].mean(dim=0)
            precision_LR = torch.zeros(self.classes, known.shape[1])
            precision_LR[rows] = known[0].T.nan_to_num(0.0)
            results[CURVES] = (precision_LR, torch.linspace(0, 1, known.shape[1]).expand_as(precision_LR))
        return results


def box_tables(results: dict[str, Any], names: list[str]) -> dict[str, list[list[str]]]:
    """``boxes``: objects, AP and AP50 of each class, empty where one never occurs."""
    if CLASSES not in results:
        return {}
    rows = [["class", "objects", "box_map", "box_map50"]]
    for name, (precision, precision50, objects) in zip(names, results[CLASSES].tolist(), strict=True):
        rows.append([name, str(int(objects)), *("" if value != value else f"{value:.4f}" for value in (precision, precision50))])
    return {"boxes": rows}


def _detected(rows_N6: Tensor) -> dict[str, Tensor]:
    return {"boxes": rows_N6[:, :4], "scores": rows_N6[:, 4], "labels": rows_N6[:, 5].long()}


def _annotated(rows_G6: Tensor) -> dict[str, Tensor]:
    boxes_G4 = rows_G6[:, :4]
    return {"boxes": boxes_G4, "labels": rows_G6[:, 4].long(), "iscrowd": rows_G6[:, 5].long(), "area": box_area(boxes_G4)}


def _whole(parts: Tensor | list[Tensor], width: int) -> Tensor:
    """A state as one tensor on the CPU, which several processes have put together already."""
    if isinstance(parts, list):
        parts = torch.cat(parts) if parts else torch.zeros((0, width) if width else 0)
    return parts.cpu() if width else parts.cpu().long()


def _by_key(rows: Tensor, rows_key: Tensor, keys: Tensor) -> list[Tensor]:
    order = rows_key.argsort(stable=True)
    counts = torch.bincount(torch.searchsorted(keys, rows_key), minlength=len(keys))
    return list(torch.split(rows[order], counts.tolist())) if len(keys) else []
