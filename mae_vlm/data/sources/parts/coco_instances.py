"""Boxes and masks of a COCO json, and of what else is written like it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mae_vlm.data.problems import Problems
from mae_vlm.data.sources.parts.annotated import Pixels
from mae_vlm.data.sources.parts.coco_file import CocoFile
from mae_vlm.data.sources.parts.coco_masks import Segmentations, box_of, good_polygons, judge
from mae_vlm.data.sources.parts.coco_objects import ObjectColumns
from mae_vlm.data.sources.parts.objects import Objects
from mae_vlm.types import Sample


class Instances:
    """Gathers the objects of a file while it is read. An annotation without a box gets that of its mask; key points are passed over."""

    def __init__(self, file: Path, problems: Problems) -> None:
        self.file, self.problems = file, problems
        self._columns = ObjectColumns(2)  # marks: where the annotation stands in the file, zeros without a mask

    def annotate(self, slot: int, annotation: dict[str, Any], start: int, end: int) -> None:
        segmentation, size, box = annotation.get("segmentation"), (0, 0), annotation.get("bbox")
        if segmentation:
            wrong = judge(segmentation)
            if wrong:
                self.problems.add(wrong[0], self.file, annotation.get("id"), wrong[1])
                if not isinstance(segmentation, list) or not good_polygons(segmentation):
                    return
            if isinstance(segmentation, dict):
                size = segmentation["size"]
            box = box or box_of(segmentation)
        else:
            start = end = 0
        self._columns.add(slot, annotation, box, (start, end), size)

    def finish(self, listed: CocoFile, classes: list[str], numbers: dict[Any, int]) -> tuple[Objects, Pixels | None]:
        """The objects by picture, and where their masks are."""
        objects = self._columns.objects(listed, numbers)
        assert objects.marks is not None
        return objects, DrawnMasks(self.file, listed.sizes, objects) if objects.marks.any() else None


class DrawnMasks:
    """Masks that are drawn from the annotations in the json, found there by their bytes: the memory holds two numbers for each.

    A picture has masks if each of its objects has one.
    """

    def __init__(self, file: Path, sizes: NDArray[np.int32], objects: Objects) -> None:
        self.file, self._sizes, self._objects = file, sizes, objects

    def fill(self, sample: Sample, index: int) -> None:
        assert self._objects.marks is not None
        spots_N2 = self._objects.marks[self._objects.rows(index)]
        if (spots_N2[:, 1] > 0).all():
            height, width = self._sizes[index].tolist()
            sample.masks = Segmentations(sample.id, sample.image, (height, width), self.file, spots_N2)
