"""A folder of picture files, at any depth; the first-level folders are the classes where there are several."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mae_vlm.data.sources.base import Format, Place, Source
from mae_vlm.data.sources.files import EXTENSIONS, is_picture, walk
from mae_vlm.types import Sample

PICTURE_FOLDERS = ("images", "jpegimages")  # beside masks and annotations: only this one holds pictures to learn from


class ImageFolder(Source):
    """Every picture file below ``path`` (or the one file ``path``), sorted; hidden files and folders are skipped.

    Where every picture lies in one of two or more first-level folders, these are its classes; with ``classes`` given, labels
    follow that list and a folder that it does not hold gives no label. Where ``path`` holds a folder ``images``, only that is read.
    Paths are kept in one Arrow array, about as many bytes as they have letters.

    Raises:
        ValueError: there is no picture below the path.
    """

    def __init__(self, path: str | Path, classes: list[str] | None = None) -> None:
        root = Path(path)
        single = root.is_file()
        self.root = root.parent if single else _picture_root(root)
        cut = len(os.path.join(os.fspath(self.root), ""))  # noqa: PTH118 (a string operation, once)
        found = [root.name] if single else [entry.path[cut:] for entry in walk(self.root) if is_picture(entry.name)]
        if not found:
            raise ValueError(f"no pictures in {path}: looked for files ending in {' '.join(EXTENSIONS)}; check data.path")
        self._names = pa.array([os.fsencode(name) for name in found], pa.large_binary())  # file names are bytes, not always UTF-8
        self.classes, self._labels = _classes(found, classes)

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return os.fsdecode(self._names[index].as_py())

    def __getitem__(self, index: int) -> Sample:
        name = self.name(index)
        label = None if self._labels is None else int(self._labels[index])
        return Sample(name, (self.root / name).read_bytes(), None if label == -1 else label)


def _picture_root(root: Path) -> Path:
    inner = [entry for entry in sorted(root.iterdir()) if entry.is_dir() and entry.name.lower() in PICTURE_FOLDERS]
    return inner[0] if len(inner) == 1 else root


def _classes(names: list[str], classes: list[str] | None) -> tuple[list[str] | None, NDArray[np.int32] | None]:
    folders = [name.split(os.sep, 1)[0] if os.sep in name else "" for name in names]
    if classes is None:
        classes = sorted(set(folders))
        if "" in classes or len(classes) < 2:
            return None, None
    numbers = {folder: number for number, folder in enumerate(classes)}
    return classes, np.fromiter((numbers.get(folder, -1) for folder in folders), dtype=np.int32, count=len(folders))


def _open(place: Place) -> dict[str, Source]:
    if len(place.roots) > 1:
        names = ", ".join(root.name for root in place.roots)
        raise ValueError(f"data.path {place.path} holds several folders of one split ({names}); join them into one")
    return {"all": ImageFolder(place.root, place.classes)}


FORMAT = Format("folder", lambda place: False, _open)
