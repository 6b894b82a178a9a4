"""The objects of many Pascal VOC files: gathered file by file, judged all at once."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mae_vlm.data.problems import Problems
from mae_vlm.data.sources.parts.objects import Objects, fit_boxes, group
from mae_vlm.data.sources.parts.pairs import stem
from mae_vlm.data.sources.parts.voc_xml import VocFile, read_voc


class VocObjects:
    """The objects of the pictures ``names``, from the xml files in ``folder``.

    A file belongs to the picture of its own stem, or else to the one that its ``filename`` tells.
    """

    def __init__(self, folder: Path, names: Sequence[str], problems: Problems) -> None:
        self.folder, self.names, self.problems = folder, names, problems
        self._row_of_stem = {stem(name): row for row, name in reversed(list(enumerate(names)))}
        self._read: dict[int, str] = {}  # the file of each picture
        self._rows, self._boxes, self._difficult, self._sizes, self._numbers = array("q"), array("d"), array("b"), array("q"), array("q")
        self._classes: list[str] = []

    def read(self, file: str) -> None:
        """The objects of one file, whose name is relative to the folder; one that cannot be read is a problem."""
        try:
            found = read_voc(self.folder / file)
        except ValueError as error:
            self.problems.add("damaged xml", self.folder / file, stem(file), str(error))
            return
        row = self._row_of_stem.get(stem(file), self._row_of_stem.get(stem(found.filename)))
        if row is None:
            self.problems.add("picture missing", self.folder / file, stem(file), f"no picture {found.filename or stem(file)}")
        elif row in self._read:
            self.problems.add("second annotation of a picture", self.folder / file, self.names[row], f"{self._read[row]} is read")
        else:
            self._read[row] = file
            self._add(row, found)

    def _add(self, row: int, found: VocFile) -> None:
        for number, one in enumerate(found.objects, start=1):
            self._rows.append(row)
            self._boxes.extend(one.box)
            self._classes.append(one.name)
            self._difficult.append(one.difficult)
            self._sizes.extend((found.height, found.width))
            self._numbers.append(number)

    def finish(self, classes: list[str] | None, first_pixel: int) -> tuple[list[str], Objects]:
        """The class names (``classes``, or all that occur, sorted) and the objects that can be used, marked with their number in the file.

        ``first_pixel`` is what the files call the left and top pixel: 0, or 1 where they count as VOC itself does.
        """
        names = classes if classes is not None else sorted({name for name in self._classes if name})
        places = {name: number for number, name in enumerate(names)}
        class_N = np.array([places.get(name, -1) for name in self._classes], np.int64)
        for at in np.flatnonzero(class_N < 0).tolist():
            self._tell("unknown class", at, f"{self._classes[at]} is no class of the train part" if self._classes[at] else "it has no name")
        rows = np.flatnonzero(class_N >= 0)
        boxes_M4 = (np.array(self._boxes).reshape(-1, 4) - np.array([first_pixel, first_pixel, 0, 0]))[rows]
        sizes_M2 = np.array(self._sizes, np.int64).reshape(-1, 2)[rows]
        boxes_M4, usable_M = fit_boxes(boxes_M4, sizes_M2, lambda kind, at, text: self._tell(kind, rows[at], text))
        rows, boxes_M4 = rows[usable_M], boxes_M4[usable_M]
        owner_N, crowds_N, marks_N = np.array(self._rows, np.int64), np.array(self._difficult, np.bool_), np.array(self._numbers, np.int64)
        return names, group(len(self.names), owner_N[rows], boxes_M4, class_N[rows], crowds_N[rows], marks_N[rows])

    def _tell(self, kind: str, at: int, text: str) -> None:
        row = self._rows[at]
        self.problems.add(kind, self.folder / self._read[row], f"{self.names[row]}, object {self._numbers[at]}", text)


def masks_there(folder: Path, names: Sequence[str]) -> NDArray[np.bool_]:
    """Which of the pictures ``names`` have a PNG of their stem in the folder."""
    there = {entry.stem for entry in folder.glob("*.png")}
    return np.array([stem(name) in there for name in names], np.bool_)
