"""Eight pictures of a collection with their annotations, as a collection of their own: ``images`` and what is written about them.

The rule is fixed: of the first file names, sorted, those of pictures that hold an object. Annotations are copied, never changed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

COUNT = 8


def chosen(part: Path, annotations: str) -> list[str]:
    """File names of the pictures taken from ``part``, whose truth is ``annotations``: a COCO json, or a folder of PNGs."""
    if not annotations.endswith(".json"):
        return sorted(file.name for file in (part / "images").iterdir())[:COUNT]
    told = json.loads((part / annotations).read_text())
    full = {one["image_id"] for one in told["annotations"] if one.get("segments_info", True)}
    return sorted(image["file_name"] for image in told["images"] if image["id"] in full)[:COUNT]


def write_set(part: Path, annotations: str, out: Path) -> list[str]:
    """Write the small set into ``out``; the names of its pictures. What is there already is written again."""
    names = chosen(part, annotations)
    for name in names:
        _copy(part / "images" / name, out / "images" / name)
    if annotations.endswith(".json"):
        told = json.loads((part / annotations).read_text())
        told = _cut(told, set(names))
        for one in told["annotations"]:
            if "segments_info" in one:
                _copy(part / "panoptic" / one["file_name"], out / "panoptic" / one["file_name"])
        (out / annotations).write_text(json.dumps(told))
    else:
        for name in names:
            mask = f"{Path(name).stem}.png"
            _copy(part / annotations / mask, out / annotations / mask)
    return names


def _cut(told: dict[str, Any], names: set[str]) -> dict[str, Any]:
    images = [image for image in told["images"] if image["file_name"] in names]
    ids = {image["id"] for image in images}
    return told | {"images": images, "annotations": [one for one in told["annotations"] if one["image_id"] in ids]}


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
