"""Visual Genome's regions: boxes with a phrase each.

``region_descriptions.json``: ``[{"id": picture, "regions": [{"region_id", "x", "y", "width", "height", "phrase"}, ...]}, ...]``, and beside
it ``image_data.json`` (``[{"image_id", "width", "height"}, ...]``), which tells the sizes. Source: https://homes.cs.washington.edu/~ranjay/visualgenome

Suffixes of names: P pictures, R regions.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from mae_vlm.data.sources.base import Format, Place, Source
from mae_vlm.data.sources.parts.annotated import read_picture
from mae_vlm.data.sources.parts.list_words import cut_lists
from mae_vlm.data.sources.parts.numbered import Numbered, numbered
from mae_vlm.data.sources.parts.objects import fit_boxes
from mae_vlm.data.sources.parts.tables import list_elements
from mae_vlm.data.sources.parts.word_columns import encodable
from mae_vlm.types import Sample

_REGIONS, _SIZES = "region_descriptions.json", "image_data.json"
_FOLDERS = ("VG_100K", "VG_100K_2", "images/VG_100K", "images/VG_100K_2", "images", "images2", "")


class VisualGenome(Source):
    """The pictures of ``names`` (below ``root``) with their regions: ``boxes`` and, likewise, ``box_captions``; there are no classes.

    ``boxes_R4`` (float32: left, top, right, bottom in pixels) are those of all pictures, one picture's ending at its ``ends``;
    ``phrases`` is one Arrow list of strings for each picture.
    """

    def __init__(self, root: Path, names: Any, ends: NDArray[np.int64], boxes_R4: NDArray[np.float32], phrases: Any) -> None:
        self.root, self._names, self._ends, self._boxes_R4, self._phrases = root, names, ends, boxes_R4, phrases

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return str(self._names[index].as_py())

    def names(self) -> Any:
        return self._names.cast(pa.large_binary())

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        name = self.name(index)
        rows = slice(int(self._ends[index - 1]) if index else 0, int(self._ends[index]))
        boxes = torch.from_numpy(self._boxes_R4[rows].copy())
        return Sample(name, read_picture(self.root / name), boxes=boxes, box_captions=tuple(self._phrases[index].as_py()))


def read_regions(file: Path, place: Place) -> VisualGenome:
    """The pictures of a file of regions that are there.

    Raises:
        ValueError: the file is damaged, or none of its pictures is there.
    """
    root = file.parent
    pictures = numbered(root, _FOLDERS)
    ids: list[int] = []
    counts: list[int] = []
    boxes: list[NDArray[np.float64]] = []
    phrases: list[Any] = []
    for id, regions in _pictures(file, place, pictures):
        found = [one for one in regions if _fine(one, file, place)]
        ids.append(id)
        counts.append(len(found))
        boxes.append(np.array([[one["x"], one["y"], one["width"], one["height"]] for one in found], np.float64).reshape(-1, 4))
        phrases.append(pa.array([encodable(one["phrase"]).strip() for one in found], pa.large_string()))
    if not ids:
        raise ValueError(f"none of the pictures of {file} is in {root} or its folders {', '.join(filter(None, _FOLDERS))}; put them there")
    owner_R, boxes_R4 = np.repeat(np.arange(len(ids)), counts), np.concatenate(boxes)
    boxes_R4[:, 2:] += boxes_R4[:, :2]
    sizes_P2 = _sizes(root / _SIZES, np.array(ids, np.int64))

    def tell(kind: str, row: int, text: str) -> None:
        place.problems.add(kind, file, f"picture {ids[owner_R[row]]}", text)

    cut_R4, usable_R = fit_boxes(boxes_R4, sizes_P2[owner_R], tell)
    counts_P = np.bincount(owner_R[usable_R], minlength=len(ids))
    lists = cut_lists(pa.concat_arrays(phrases).filter(pa.array(usable_R)), counts_P)
    return VisualGenome(root, pictures.paths(np.array(ids, np.int64)), np.cumsum(counts_P), cut_R4[usable_R].astype(np.float32), lists)


def _pictures(file: Path, place: Place, pictures: Numbered) -> Iterator[tuple[int, list[Any]]]:
    """(number, regions) of each entry whose picture is there."""
    there, seen = set(pictures.ids_P.tolist()), set[int]()
    for one, _ in list_elements(file):
        id = _id(one)
        if id is None or not isinstance(one.get("regions"), list):
            place.problems.add("entry without picture or regions", file, f"after picture {max(seen, default=0)}", "it is left out")
        elif id in seen:
            place.problems.add("picture listed again", file, f"picture {id}", "the first entry counts")
        elif id not in there:
            place.problems.add("missing picture", file, f"picture {id}", f"not below {file.parent}")
        else:
            seen.add(id)
            yield id, one["regions"]


def _id(one: Any) -> int | None:
    id = one.get("id", one.get("image_id")) if isinstance(one, dict) else None
    return id if isinstance(id, int) else None


def _fine(one: Any, file: Path, place: Place) -> bool:
    """Whether a region has a box and a phrase; tells it where not."""
    id = one.get("region_id", "?") if isinstance(one, dict) else "?"
    sides = [one.get(key) for key in ("x", "y", "width", "height")] if isinstance(one, dict) else [None]
    if not all(isinstance(side, int | float) for side in sides):
        place.problems.add("box is not four finite numbers", file, f"region {id}", f"x, y, width, height are {sides}")
        return False
    if not isinstance(one.get("phrase"), str) or not one["phrase"].strip():
        place.problems.add("empty caption", file, f"region {id}", "it has no phrase")
        return False
    return True


def _sizes(file: Path, ids_P: NDArray[np.int64]) -> NDArray[np.int64]:
    """Height and width of the pictures, 0 where they are not told."""
    known = {}
    if file.is_file():
        known = {_id(one): (one.get("height", 0), one.get("width", 0)) for one, _ in list_elements(file) if isinstance(one, dict)}
    return np.array([known.get(id, (0, 0)) for id in ids_P.tolist()], np.int64)


def _file(place: Place) -> Path | None:
    named = [root / name for root in place.roots for name in place.annotations]
    files = named or [root if root.is_file() else root / _REGIONS for root in place.roots]
    return next((file for file in files if file.name.endswith(_REGIONS) and file.is_file()), None)


def _claims(place: Place) -> bool:
    file = _file(place)
    if file is None:
        return False
    try:
        first = [_id(one) for one, _ in islice(list_elements(file), 20)]
    except ValueError:
        return False
    pictures = numbered(file.parent, _FOLDERS)
    return any(id is not None and pictures.holds(id) for id in first)


def _open(place: Place) -> dict[str, Source]:
    file = _file(place)
    if file is None:
        raise ValueError(f"data.path {place.path} holds no {_REGIONS}; put Visual Genome's file there, or name it by data.annotations")
    return {"all": read_regions(file, place)}


FORMAT = Format("visual_genome", _claims, _open)
