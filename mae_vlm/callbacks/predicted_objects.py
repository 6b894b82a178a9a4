"""Objects of pictures as COCO's json: one line for each picture while they come, standard files at the end.

Letters: N objects, H, W pixels.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as run_length
from torch import Tensor

from mae_vlm import storage
from mae_vlm.types import Frame, Prediction

_BELIEVED = 0.5  # score from which on objects are listed, where a head has not measured its own threshold
_COLUMNS = ["id", "class", "score", "left", "top", "right", "bottom"]


def line(prediction: Prediction, frame: Frame, ids: Sequence[int]) -> str:
    """One picture as json: its id, height and width, and its objects as COCO has them, but for the picture's number.

    ``ids`` are the ``category_id`` of each class.
    """
    assert prediction.object_scores is not None and prediction.object_classes is not None
    shapes = _shapes(prediction)
    scores, classes = prediction.object_scores.tolist(), prediction.object_classes.tolist()
    objects = [
        {"category_id": ids[number], "score": round(score, 7)} | shape for number, score, shape in zip(classes, scores, shapes, strict=True)
    ]
    return json.dumps({"id": prediction.id, "height": frame.height, "width": frame.width, "objects": objects})


def _shapes(prediction: Prediction) -> list[dict[str, Any]]:
    """``bbox`` (left, top, width, height) of each object, and its run-length encoded mask where there is one."""
    masks = [] if prediction.masks is None else [_encoded(mask_HW) for mask_HW in prediction.masks]
    if prediction.boxes is None:
        boxes = [run_length.toBbox([one])[0].tolist() for one in masks]
    else:
        boxes = [[left, top, right - left, bottom - top] for left, top, right, bottom in prediction.boxes.tolist()]
    shapes: list[dict[str, Any]] = [{"bbox": [round(value, 4) for value in box]} for box in boxes]
    for shape, mask in zip(shapes, masks, strict=False):
        counts = mask["counts"]
        shape["segmentation"] = mask | {"counts": counts.decode() if isinstance(counts, bytes) else counts}
    return shapes


def _encoded(mask_HW: Tensor) -> dict[str, Any]:
    encoded: dict[str, Any] = run_length.encode(np.asfortranarray(mask_HW.numpy().astype(np.uint8)[..., None]))[0]
    return encoded | {"size": [int(side) for side in encoded["size"]]}


def ids(part: Path) -> set[str]:
    """The pictures that a part tells of."""
    return {one["id"] for one in _lines([part])}


def write_coco(parts: list[Path], results: Path, images: Path, listed: Path, head: Any) -> int:
    """Put the parts together; how many pictures there are.

    ``images`` is a COCO file of pictures, numbered by the order of their names, and categories with ``head.ids``;
    ``results`` COCO's list of detections, all of them. ``listed`` is a table of those that the head believes: whose score is at least its
    threshold. A picture that was told twice counts once. One picture is in memory at a time.
    """
    sizes = {one["id"]: (one["height"], one["width"]) for one in _lines(parts)}
    numbers = {id: number for number, id in enumerate(sorted(sizes), 1)}
    about = {
        "images": [{"id": n, "file_name": id, "height": sizes[id][0], "width": sizes[id][1]} for id, n in numbers.items()],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in zip(head.ids, head.names, strict=True)],
    }
    storage.write_whole(images, lambda file: file.write(json.dumps(about).encode()))
    storage.write_whole(results, lambda file: _write_results(file, parts, numbers))
    storage.write_whole(listed, lambda file: _write_listed(file, parts, head))
    return len(sizes)


def _write_results(file: Any, parts: list[Path], numbers: dict[str, int]) -> None:
    start = "[\n"
    for one in _once(parts):
        for found in one["objects"]:
            file.write((start + json.dumps({"image_id": numbers[one["id"]]} | found)).encode())
            start = ",\n"
    file.write(b"[]\n" if start == "[\n" else b"\n]\n")


def _write_listed(file: Any, parts: list[Path], head: Any) -> None:
    threshold, names = float(getattr(head, "threshold", _BELIEVED)), dict(zip(head.ids, head.names, strict=True))
    file.write(_csv([_COLUMNS]))
    for one in _once(parts):
        rows = []
        for found in one["objects"]:
            if found["score"] >= threshold:
                left, top, width, height = found["bbox"]
                corners = [f"{value:.2f}" for value in (left, top, left + width, top + height)]
                rows.append([one["id"], names[found["category_id"]], f"{found['score']:.6f}", *corners])
        file.write(_csv(rows))


def _csv(rows: list[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _once(parts: list[Path]) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    for one in _lines(parts):
        if one["id"] not in seen:
            seen.add(one["id"])
            yield one


def _lines(parts: list[Path]) -> Iterator[dict[str, Any]]:
    for part in parts:
        with part.open(encoding="utf-8") as opened:
            for text in opened:
                yield json.loads(text)
