"""Panoptic answers as files in COCO's form: a PNG of segments for each picture, and one json of what the segments are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.io import encode_png

from mae_vlm import storage
from mae_vlm.callbacks.predicted_maps import map_file
from mae_vlm.types import Prediction

FOLDER, FILE = "panoptic", "panoptic.json"


def write_panoptic(out: Path, prediction: Prediction, ids: Sequence[int]) -> dict[str, Any]:
    """Write ``out/panoptic/<picture>.png``, in which segment k has the colour R + 256 G + 65536 B = k, and beside it ``<picture>.json``.

    The json, which is returned too, is the picture's entry among COCO's ``annotations``: for each segment its id, class (``category_id``,
    that of ``ids``), score, area in pixels and bbox (left, top, width, height). Segments without a pixel are left out.

    Raises:
        OSError: it cannot be written.
    """
    map_HW, classes_K, scores_K = prediction.segments, prediction.object_classes, prediction.object_scores
    assert map_HW is not None and classes_K is not None and scores_K is not None
    place = map_file(out / FOLDER, prediction.id)
    pairs = enumerate(zip(classes_K.tolist(), scores_K.tolist(), strict=True), start=1)
    segments = [_segment(map_HW == number, number, ids[kind], score) for number, (kind, score) in pairs if bool((map_HW == number).any())]
    entry = {"image_id": prediction.id, "file_name": place.relative_to(out / FOLDER).as_posix(), "segments_info": segments}
    storage.write_whole(place, lambda file: file.write(encode_png(_coloured(map_HW)).numpy()))
    storage.write_whole(place.with_suffix(".json"), lambda file: file.write(json.dumps(entry).encode()))
    return entry


def join_panoptic(out: Path, classes: Sequence[str], ids: Sequence[int], sizes: dict[str, tuple[int, int]] | None = None) -> Path:
    """Put the entries of all pictures into ``out/panoptic.json`` and remove their own files; returns it.

    ``ids`` are the category ids of the ``classes``, ``sizes`` height and width of pictures by id, for COCO's ``images``: without, these
    are left out.
    """
    parts = sorted((out / FOLDER).rglob("*.json"))
    entries = [json.loads(part.read_text()) for part in parts]
    images = [_image(entry["image_id"], sizes) for entry in entries]
    categories = [{"id": number, "name": name} for number, name in zip(ids, classes, strict=True)]
    whole = {"images": images, "annotations": entries, "categories": categories}
    storage.write_whole(out / FILE, lambda file: file.write(json.dumps(whole).encode()))
    for part in parts:
        part.unlink()
    return out / FILE


def _image(id: str, sizes: dict[str, tuple[int, int]] | None) -> dict[str, Any]:
    image: dict[str, Any] = {"id": id, "file_name": id}
    return image if sizes is None else image | {"height": sizes[id][0], "width": sizes[id][1]}


def _segment(mask_HW: Tensor, number: int, kind: int, score: float) -> dict[str, Any]:
    rows, columns = mask_HW.any(1).nonzero()[:, 0], mask_HW.any(0).nonzero()[:, 0]
    left, top = int(columns[0]), int(rows[0])
    box = [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]
    return {"id": number, "category_id": kind, "score": round(score, 6), "area": int(mask_HW.sum()), "bbox": box, "iscrowd": 0}


def _coloured(map_HW: Tensor) -> Tensor:
    return torch.stack([map_HW >> shift & 255 for shift in (0, 8, 16)]).to(torch.uint8)
