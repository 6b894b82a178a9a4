"""A run's last metrics as the hub's evaluation results."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from mae_vlm.report.recorded import Recorded

EXTRACTION = "image-feature-extraction"
_TASKS = {
    "Classify": "image-classification",
    "Segment": "image-segmentation",
    "Masks": "image-segmentation",
    "Dense": "object-detection",
}
_KINDS = {"top1": "accuracy", "linear": "accuracy", "knn": "accuracy", "f1": "f1", "miou": "mean_iou"}
_CONTROLS = ("predict_zero", "other_picture")
_HEADLINES = re.compile(r"^val/|^probe/(linear|knn)$|^ema/loss$")


@dataclass(frozen=True)
class Metric:
    """One number at the end of a run, by its tag; ``kind`` is the hub's name of the metric, or the tag."""

    tag: str
    value: float
    step: int
    kind: str
    task: str


def metrics(run: Recorded, step: int) -> list[Metric]:
    """The validation metrics, and probes, as they stood at ``step`` or last before it."""
    task = head_task(run) or EXTRACTION
    found = []
    for tag in sorted(filter(_HEADLINES.match, run.curves)):
        points = [point for point in run.curve(tag) if point[0] <= step]
        if points:
            kind = _KINDS.get(tag.rpartition("/")[2], tag.rpartition("/")[2])
            found.append(Metric(tag, points[-1][1], points[-1][0], kind, "image-classification" if tag.startswith("probe/") else task))
    return found


def head_task(run: Recorded) -> str:
    """The hub's name of what a fine-tuned run does; empty in pretraining, or where nobody has named it."""
    heads = run.setting("model.heads")
    classes = [str(one.get("class_path") or "") if isinstance(one, dict) else str(one) for one in (heads or {}).values()]
    return next((task for name, task in _TASKS.items() if any(path.endswith(f".{name}") for path in classes)), "")


def results(found: list[Metric], data: str, data_id: str) -> list[Any]:
    """The same as ``huggingface_hub.EvalResult``, without the controls, which rate no model.

    ``data`` is the data's name, ``data_id`` its name on the hub, or any.
    """
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type=one.task,
            dataset_type=data_id,
            dataset_name=data,
            dataset_split="validation",
            metric_type=one.kind,
            metric_name=f"{one.tag} (linear probe on frozen features)" if one.tag == "probe/linear" else one.tag,
            metric_value=round(one.value, 6),
        )
        for one in found
        if one.kind not in _CONTROLS
    ]
