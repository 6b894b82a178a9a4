"""What becomes of the detections of a batch: measured, handed out, and drawn; and whether the data has the classes.

Letters: G true objects.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torchmetrics import MetricCollection

from mae_vlm.data.summary import Summary
from mae_vlm.heads.parts.box_drawing import side_by_side
from mae_vlm.heads.parts.box_metrics import Truth
from mae_vlm.heads.parts.dense_detections import Detections, above
from mae_vlm.types import Batch, Prediction, Target


def names_of(classes: int | list[str] | None) -> list[str]:
    """Names of a detector's classes, which are their numbers where only how many there are is known.

    Raises:
        ValueError: nothing is known.
    """
    if classes is None:
        raise ValueError("a detector needs its classes, their number or names; the command line takes them from the data")
    return [str(number) for number in range(classes)] if isinstance(classes, int) else list(classes)


def check_classes(names: list[str], named: bool, summary: Summary) -> None:
    """Whether a collection has boxes of the classes ``names``; where only their number is known (not ``named``), of as many.

    Raises:
        ValueError: it has none, or others.
    """
    where, found = summary.path or "the collection", summary.object_classes
    if found is None:
        raise ValueError(f"{where} has no boxes of named objects to learn; give them with data.annotations")
    if len(found) != len(names):
        raise ValueError(f"{where} has {len(found)} classes of objects, this detector {len(names)}; give data of the same classes")
    changed = [pair for pair in zip(names, found, strict=True) if pair[0] != pair[1]] if named else []
    if changed:
        raise ValueError(f"{where} has other classes of objects than this detector: {changed[0][1]} where it has {changed[0][0]}")


def known(target: Target) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes in pixels of the prepared picture, classes and crowds."""
    assert target.boxes is not None and target.classes is not None and target.crowds is not None
    return target.boxes, target.classes, target.crowds


def measure(metrics: MetricCollection, found: Sequence[Detections], batch: Batch) -> None:
    """Add the real pictures of a batch to the metric ``boxes``."""
    real = [number for number, real in enumerate(batch.real_B.tolist()) if real]
    keys, true = batch.keys_B.tolist(), []
    for number in real:
        boxes_G4, classes_G, crowds_G = known(batch.targets[number])
        true.append(Truth(batch.targets[number].frame.outward(boxes_G4), classes_G, crowds_G))
    metrics["boxes"].update([keys[number] for number in real], [found[number] for number in real], true)


def predictions(found: Sequence[Detections], batch: Batch) -> list[Prediction]:
    """Those of the real pictures, on the CPU."""
    told = zip(batch.ids, found, batch.real_B.tolist(), strict=True)
    said = [(id, [part.cpu() for part in one]) for id, one, real in told if real]
    return [Prediction(id, boxes=one[0], object_scores=one[1], object_classes=one[2]) for id, one in said]


def drawn(found: Sequence[Detections], batch: Batch, threshold: float, classes: int) -> Tensor:
    """A row for each picture, with its true boxes and with those answered from ``threshold`` on, see ``box_drawing.side_by_side``."""
    sure = [above(one, threshold) for one in found]
    inside = [(target.frame.inward(one.boxes_N4), one.classes_N) for target, one in zip(batch.targets, sure, strict=True)]
    return side_by_side(batch, inside, classes)
