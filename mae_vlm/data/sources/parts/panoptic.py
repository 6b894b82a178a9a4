"""COCO's panoptic maps: a json that lists segments, things and stuff, and a PNG per picture in which each has its own colour."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mae_vlm.data.problems import Problems
from mae_vlm.data.sources.parts.annotated import Pixels
from mae_vlm.data.sources.parts.coco_file import CocoFile
from mae_vlm.data.sources.parts.coco_objects import ObjectColumns
from mae_vlm.data.sources.parts.files import outside
from mae_vlm.data.sources.parts.mask_pixels import ClassPixels, ObjectPixels
from mae_vlm.data.sources.parts.objects import Objects
from mae_vlm.types import Sample


class Panoptic:
    """Gathers the segments of a file while it is read; each becomes an object, and all together the semantic mask.

    The PNGs lie beside the json in a folder of its name, or in ``panoptic``. A picture whose PNG is missing keeps no segment.
    """

    def __init__(self, file: Path, problems: Problems) -> None:
        self.file, self.problems = file, problems
        self._columns = ObjectColumns(1)  # marks: the segment's id, R + 256 G + 65536 B in the PNG
        self._maps: dict[int, str] = {}  # the PNG's name by the picture's slot
        folders = [file.with_suffix(""), file.parent / "panoptic", file.parent]
        self._folder = next(folder for folder in folders if folder.is_dir())
        self._there = {entry.name for entry in self._folder.iterdir()}

    def annotate(self, slot: int, annotation: dict[str, Any], start: int, end: int) -> None:
        name, segments = annotation.get("file_name"), annotation.get("segments_info")
        wrong = self._wrong(slot, name, segments)
        if wrong:
            self.problems.add(wrong, self.file, annotation.get("image_id"), f"{name}")
            return
        self._maps[slot] = str(name)
        for segment in segments or ():
            self._columns.add(slot, segment, segment.get("bbox"), (int(segment["id"]),))

    def finish(self, listed: CocoFile, classes: list[str], numbers: dict[Any, int]) -> tuple[Objects, Pixels | None]:
        """The segments by picture, and where their masks are."""
        objects = self._columns.objects(listed, numbers)
        rows = listed.rows
        names: list[str | None] = [None] * len(listed.names)
        for slot, name in self._maps.items():
            if rows[slot] >= 0:
                names[rows[slot]] = name
        return objects, PanopticMaps(self._folder, names, objects, len(classes))

    def _wrong(self, slot: int, name: Any, segments: Any) -> str | None:
        if not isinstance(segments, list) or not all(isinstance(one, dict) and _is_colour(one.get("id")) for one in segments):
            return "annotation without segments"
        if slot in self._maps:
            return "second panoptic map of a picture"
        if isinstance(name, str) and outside(name):
            return "panoptic map outside the collection"
        if not isinstance(name, str) or not (name in self._there or (self._folder / name).is_file()):
            return "panoptic map missing"
        return None


def _is_colour(id: Any) -> bool:
    return isinstance(id, int) and 0 <= id < 1 << 24


class PanopticMaps:
    """The maps ``names`` (one for each picture, or None) in ``folder``; ``objects`` are their segments."""

    def __init__(self, folder: Path, names: Sequence[str | None], objects: Objects, classes: int) -> None:
        self.folder, self._objects, self._classes = folder, objects, classes
        self._names = pa.array([None if name is None else os.fsencode(name) for name in names], pa.large_binary())

    def fill(self, sample: Sample, index: int) -> None:
        name = self._names[index].as_py()
        if name is None:
            return
        assert self._objects.marks is not None
        rows = self._objects.rows(index)
        file, marks_N = self.folder / os.fsdecode(name), self._objects.marks[rows, 0]
        sample.masks = ObjectPixels(sample.id, sample.image, file, marks_N, complete=True)
        classes_N = self._objects.classes[rows].astype(np.int64)
        sample.semantic = ClassPixels(sample.id, sample.image, file, marks_N, classes_N, self._classes)
