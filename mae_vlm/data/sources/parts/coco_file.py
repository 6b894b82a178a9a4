"""One COCO json file read into arrays: its pictures, its categories, and what its annotations say of objects or in sentences."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mae_vlm.data.problems import Problems
from mae_vlm.data.sources.parts.files import missing, outside
from mae_vlm.data.sources.parts.json_stream import elements

UNKNOWN, LEFT_OUT = -1, -2  # rows of pictures that are not listed, and of those that are not on the disk, or outside the collection
Annotate = Callable[[int, dict[str, Any], int, int], None]  # (picture's slot, annotation, its bytes [start, end))


class CocoFile:
    """The pictures and categories of a file. Pictures have a *slot* by first mention of their id, and a *row* in ``names``.

    An id that comes twice, an entry without id or file name, or whose name leads out of the folder, is a problem and left
    out; two ids of one file name are one picture.

    Args:
        file: the json.
        problems: where bad entries are told.
        annotate: called with every annotation, in file order; pictures and categories may still come after it.

    Raises:
        ValueError: the file is not JSON, or lists no picture.
    """

    def __init__(self, file: Path, problems: Problems, annotate: Annotate) -> None:
        self.file, self.problems = file, problems
        self.names: list[str] = []
        self._sizes = array("i")  # height, width by row; 0 where the file does not say
        self._row_of_name: dict[str, int] = {}
        self._slots: dict[Any, int] = {}
        self._rows = array("q")  # by slot
        self.categories: dict[Any, str] = {}  # names by id, in file order
        self._things: dict[str, bool] = {}  # by name, where the file says
        for key, value, start, end in elements(file):
            if key not in ("images", "annotations", "categories"):
                continue
            if not isinstance(value, dict):
                problems.add("entry is no object", file, f"byte {start}", f"in {key}: {str(value)[:60]}")
            elif key == "annotations":
                annotate(self._slot(value.get("image_id")), value, start, end)
            elif key == "images":
                self._add_picture(value)
            else:
                self._add_category(value)
        if not self.names:
            raise ValueError(f"{file} lists no picture; its key images must hold entries with id and file_name")

    @property
    def sizes(self) -> NDArray[np.int32]:
        """Height and width by row: int32 ``[pictures, 2]``, 0 where the file does not say."""
        return np.array(self._sizes, np.int32).reshape(-1, 2)

    @property
    def rows(self) -> NDArray[np.int64]:
        """The row of each slot, ``UNKNOWN`` or ``LEFT_OUT``."""
        return np.array(self._rows, np.int64)

    def leave_out_missing(self, root: Path) -> None:
        """Forgets the pictures that are not below ``root``; each is a problem."""
        gone = missing(root, self.names)
        if not gone:
            return
        new_rows = np.full(len(self.names), LEFT_OUT)
        kept = [row for row, name in enumerate(self.names) if name not in gone]
        new_rows[kept] = np.arange(len(kept))
        for name in (name for name in self.names if name in gone):
            self.problems.add("picture missing", self.file, name, f"not in {root}")
        self._rows = array("q", [int(new_rows[row]) if row >= 0 else row for row in self._rows])
        self._sizes = array("i", self.sizes[kept].ravel().tolist())
        self.names = [self.names[row] for row in kept]

    def numbers(self, classes: list[str] | None) -> tuple[list[str], dict[Any, int]]:
        """The class names, ``classes`` where given, else the categories in file order; and the class number of each category id."""
        names = classes if classes is not None else list(dict.fromkeys(self.categories.values()))
        places = {name: number for number, name in enumerate(names)}
        return names, {id: places[name] for id, name in self.categories.items() if name in places}

    def own_ids(self, classes: list[str]) -> list[int] | None:
        """The category id of each of the ``classes``; None where one has none, or several, or what is no whole number."""
        ids_of: dict[str, list[Any]] = {}
        for id, name in self.categories.items():
            ids_of.setdefault(name, []).append(id)
        found = [ids_of.get(name, []) for name in classes]
        return [ids[0] for ids in found] if all(len(ids) == 1 and type(ids[0]) is int for ids in found) else None

    def stuff(self, classes: list[str]) -> list[str] | None:
        """Those of the ``classes`` that are marked as no things; None where no category is marked at all."""
        return [name for name in classes if not self._things.get(name, True)] if self._things else None

    def ids(self) -> list[Any]:
        """The picture id of each slot."""
        return list(self._slots)

    def _slot(self, id: Any) -> int:
        slot = self._slots.setdefault(hashable(id), len(self._slots))
        if slot == len(self._rows):
            self._rows.append(UNKNOWN)
        return slot

    def _add_category(self, entry: dict[str, Any]) -> None:
        name = str(entry.get("name", entry.get("id")))
        self.categories[hashable(entry.get("id"))] = name
        if isinstance(entry.get("isthing"), int):
            self._things[name] = bool(entry["isthing"])

    def _add_picture(self, entry: dict[str, Any]) -> None:
        id, name = entry.get("id"), _file_name(entry)
        if id is None or name is None:
            self.problems.add("picture without id or name", self.file, id, str(entry)[:80])
            return
        slot = self._slot(id)
        if outside(name):
            self.problems.add("picture outside the collection", self.file, id, name)
            if self._rows[slot] == UNKNOWN:
                self._rows[slot] = LEFT_OUT
            return
        if self._rows[slot] >= 0:
            self.problems.add("picture id twice", self.file, id, f"{name} and {self.names[self._rows[slot]]}")
            return
        if name in self._row_of_name:
            self.problems.add("picture listed twice", self.file, id, name)
        else:
            self._row_of_name[name] = len(self.names)
            self.names.append(name)
            self._sizes.extend(_side(entry.get(side)) for side in ("height", "width"))
        self._rows[slot] = self._row_of_name[name]


def _file_name(entry: dict[str, Any]) -> str | None:
    name = entry.get("file_name")
    if name is None and isinstance(entry.get("coco_url"), str):  # LVIS: .../train2017/000000391895.jpg
        name = "/".join(entry["coco_url"].split("/")[-2:])
    return name if isinstance(name, str) and _is_file_name(name) else None


def _is_file_name(name: str) -> bool:
    try:
        return bool(os.fsencode(name)) and "\0" not in name
    except UnicodeEncodeError:
        return False


def _side(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and 0 < value < 2**31 else 0


def hashable(id: Any) -> Any:
    """An id as a key; what is no number and no text becomes its words."""
    return id if isinstance(id, int | str | float) or id is None else repr(id)
