"""The objects of a COCO file: gathered annotation by annotation into columns, judged all at once."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mae_vlm.data.sources.parts.coco_file import UNKNOWN, CocoFile, hashable
from mae_vlm.data.sources.parts.objects import Objects, fit_boxes, group

_NO_BOX = (float("nan"),) * 4


class ObjectColumns:
    """Objects as they come: the slot of each one's picture, category, box (left, top, width, height), whether it is a crowd, marks.

    ``marks`` are ``width`` integers for each object, which its format needs to find the mask.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._slots, self._categories, self._boxes, self._crowds = array("q"), array("q"), array("d"), array("b")
        self._marks, self._sizes = array("q"), array("i")
        self._ids: list[Any] = []
        self._category_slots: dict[Any, int] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, slot: int, entry: dict[str, Any], box: Any, marks: tuple[int, ...], mask_size: tuple[int, int] = (0, 0)) -> None:
        """One object: ``entry`` has its category_id, iscrowd and id; ``mask_size`` is (height, width) where its mask tells them."""
        try:
            left, top, width, height = map(float, box)
        except (TypeError, ValueError, OverflowError):
            left, top, width, height = _NO_BOX
        self._slots.append(slot)
        self._boxes.extend((left, top, left + width, top + height))
        self._categories.append(self._category_slots.setdefault(hashable(entry.get("category_id")), len(self._category_slots)))
        self._crowds.append(bool(entry.get("iscrowd")))
        self._marks.extend(marks)
        self._sizes.extend(mask_size)
        self._ids.append(entry.get("id"))

    def objects(self, listed: CocoFile, numbers: dict[Any, int]) -> Objects:
        """Those that can be used, by row of ``listed``; the others are told there. ``numbers``: class number by category id."""
        owner_N = listed.rows[_int64(self._slots)]
        number_K = np.array([numbers.get(id, -1) for id in self._category_slots], np.int64)
        class_N = number_K[_int64(self._categories)]
        boxes_N4 = np.array(self._boxes).reshape(-1, 4)
        rows = np.flatnonzero(self._known(listed, owner_N, class_N) & self._mask_fits(listed, owner_N))
        sizes_M2 = listed.sizes[owner_N[rows]]
        boxes_M4, usable_M = fit_boxes(boxes_N4[rows], sizes_M2, lambda kind, row, text: self._tell(listed, kind, rows[row], text))
        rows = rows[usable_M]
        marks_N = _int64(self._marks).reshape(-1, self._width)
        return group(
            len(listed.names), owner_N[rows], boxes_M4[usable_M], class_N[rows], np.array(self._crowds, np.bool_)[rows], marks_N[rows]
        )

    def _known(self, listed: CocoFile, owner_N: NDArray[np.int64], class_N: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether picture and class are; those of pictures that were left out are not told one by one."""
        pictures, categories = listed.ids(), list(self._category_slots)
        for row in np.flatnonzero(owner_N == UNKNOWN).tolist():
            self._tell(listed, "annotation of an unknown picture", row, f"picture {pictures[self._slots[row]]}")
        for row in np.flatnonzero((owner_N >= 0) & (class_N < 0)).tolist():
            id = categories[self._categories[row]]
            name = listed.categories.get(id)
            self._tell(
                listed, "unknown class", row, f"category {id} is not listed" if name is None else f"{name} is no class of the train part"
            )
        return (owner_N >= 0) & (class_N >= 0)

    def _mask_fits(self, listed: CocoFile, owner_N: NDArray[np.int64]) -> NDArray[np.bool_]:
        mask_N2, size_N2 = np.array(self._sizes, np.int32).reshape(-1, 2), listed.sizes[owner_N.clip(min=0)]
        other_N: NDArray[np.bool_] = (owner_N >= 0) & mask_N2.all(1) & size_N2.all(1) & (mask_N2 != size_N2).any(1)
        for row in np.flatnonzero(other_N).tolist():
            (height, width), (down, across) = mask_N2[row], size_N2[row]
            self._tell(listed, "mask of another size", row, f"mask {width} x {height}, picture {across} x {down}")
        return np.logical_not(other_N)

    def _tell(self, listed: CocoFile, kind: str, row: int, text: str) -> None:
        listed.problems.add(kind, listed.file, self._ids[row], text)


def _int64(values: Any) -> NDArray[np.int64]:
    return np.array(values, np.int64)
