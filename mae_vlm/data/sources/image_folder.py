"""A folder of picture files, at any depth; the first-level folders are the classes where there are several."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mae_vlm.data.sources.base import Format, NamedFiles, Place, Source
from mae_vlm.data.sources.parts.files import EXTENSIONS
from mae_vlm.data.sources.parts.folder_index import Listing, list_pictures
from mae_vlm.types import Sample

_BY_WINDOWS = (".tif", ".tiff")  # may be larger than memory: whoever decodes them reads what it needs


class ImageFolder(NamedFiles):
    """Every picture file below ``path`` (or the one file ``path``), sorted; hidden files and folders are skipped.

    Where every picture lies in one of two or more first-level folders, these are its classes; with ``classes`` given, labels
    follow that list and a folder that it does not hold gives no label. Where ``path`` holds a folder ``images``, only that is read.
    TIFF files are given as paths, all others as bytes. The list of a large folder is kept (``folder_index``): a file that is written
    anew under its old name is read as it is then; files that come or go are noticed when the source is opened.

    Raises:
        ValueError: there is no picture below the path.
    """

    def __init__(self, path: str | Path, classes: list[str] | None = None) -> None:
        listing = _one(Path(path)) if Path(path).is_file() else list_pictures(Path(path))
        if not len(listing.names):
            raise ValueError(f"no pictures in {path}: looked for files ending in {' '.join(EXTENSIONS)}; check data.path")
        self.root, self._names = listing.root, listing.names
        self.classes, self._labels = _classes(listing, classes)

    def __getitem__(self, index: int) -> Sample:
        name = self.name(index)
        label = -1 if self._labels is None else int(self._labels[index])
        file = self.root / name
        return Sample(name, file if name.lower().endswith(_BY_WINDOWS) else file.read_bytes(), None if label == -1 else label)


def _one(file: Path) -> Listing:
    names = pa.array([os.fsencode(file.name)], pa.large_binary())
    return Listing(file.parent, names, pa.array([b""], pa.large_binary()), np.ones(1, dtype=np.int64))


def _classes(listing: Listing, classes: list[str] | None) -> tuple[list[str] | None, NDArray[np.int32] | None]:
    """Class names, and the number of each picture; told by folder, of which there are far fewer than pictures."""
    first = [os.fsdecode(folder).split(os.sep, 1)[0] for folder in listing.folders.to_pylist()]
    if classes is None:
        classes = sorted({name for name, count in zip(first, listing.counts.tolist(), strict=True) if count})
        if "" in classes or len(classes) < 2:
            return None, None
    numbers = {folder: number for number, folder in enumerate(classes)}
    return classes, np.repeat(np.array([numbers.get(name, -1) for name in first], dtype=np.int32), listing.counts)


def _open(place: Place) -> dict[str, Source]:
    if len(place.roots) > 1:
        names = ", ".join(root.name for root in place.roots)
        raise ValueError(f"data.path {place.path} holds several folders of one split ({names}); join them into one")
    return {"all": ImageFolder(place.root, place.classes)}


FORMAT = Format("folder", lambda place: False, _open)
