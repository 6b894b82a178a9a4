"""All picture files below a folder as Arrow arrays; large folders are listed once and kept in the user's cache."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mae_vlm.data.index_cache import Index, cached_file, load, one_at_a_time, patiently, save_in_first
from mae_vlm.data.sources.parts.files import Folder, is_picture, walk_folders

PICTURE_FOLDERS = ("images", "jpegimages")  # beside masks and annotations: only this one holds pictures to learn from
CACHED_FROM = 20_000  # pictures: fewer are listed in about a tenth of a second
_SETTLED = 2_000_000_000  # ns: within that time a folder may change again and keep its time stamp


class Listing(NamedTuple):
    """Pictures in the order of ``walk``.

    Attributes:
        root: the folder that names are relative to.
        names: large_binary ``[pictures]`` (file names are bytes, not always UTF-8).
        folders: large_binary, the folders visited, relative to the root ("" for itself).
        counts: int64, how many pictures each of them holds; their sum is ``len(names)``.
    """

    root: Path
    names: Any
    folders: Any
    counts: NDArray[np.int64]


def list_pictures(path: Path) -> Listing:
    """The pictures below ``path``, or below the one folder ``images`` in it.

    A listing of 20,000 and more is kept, and is good as long as no folder has gained or lost an entry; a link whose target changes
    is not noticed.
    """
    real = os.path.realpath(path)
    file = cached_file("folders", real)
    known = _valid(file, path)
    if known is not None:
        return known
    with one_at_a_time(real):
        return _valid(file, path) or _build(file, path)


def _build(file: Path, path: Path) -> Listing:
    started, changed = time.time_ns(), _changed(path)
    root = _picture_root(path)
    listing, times = _listed(root, patiently(walk_folders(root), f"listing {root}"))
    settled = max([changed, *times.tolist()]) < started - _SETTLED
    if len(listing.names) >= CACHED_FROM and settled:
        arrays = {"names": listing.names, "folders": listing.folders, "counts": pa.array(listing.counts), "times": pa.array(times)}
        inner = root.name if root != path else ""
        save_in_first([file], Index({"format": 1, "inner": inner, "changed": changed}, arrays), str(path))
    return listing


def _listed(root: Path, folders: Iterator[Folder]) -> tuple[Listing, NDArray[np.int64]]:
    cut = len(os.path.join(os.fspath(root), ""))  # noqa: PTH118 (a string operation, once)
    names, paths, rows = [pa.array([], pa.large_binary())], [], []
    for folder in folders:
        found = [os.fsencode(entry.path[cut:]) for entry in folder.files if is_picture(entry.name)]
        names.append(pa.array(found, pa.large_binary()))
        paths.append(os.fsencode(folder.path[cut:]))
        rows.append((len(found), folder.changed))
    counts, times = np.asarray(rows, dtype=np.int64).T
    return Listing(root, pa.concat_arrays(names), pa.array(paths, pa.large_binary()), counts), times


def _valid(file: Path, path: Path) -> Listing | None:
    """The listing kept in ``file``, if all its folders are as they were."""
    index = load(file) if file.exists() else None
    if index is None or index.about.get("format") != 1 or index.about["changed"] != _changed(path):
        return None
    root = path / index.about["inner"]
    folders = index.arrays["folders"]
    for folder, changed in zip(folders.to_pylist(), index.arrays["times"].to_pylist(), strict=True):
        if _changed(os.path.join(root, os.fsdecode(folder))) != changed:  # noqa: PTH118
            return None
    return Listing(root, index.arrays["names"], folders, index.arrays["counts"].to_numpy())


def _changed(folder: str | Path) -> int:
    """When entries last came or went, in ns; -1 where there is no such folder any more."""
    try:
        return os.stat(folder).st_mtime_ns  # noqa: PTH116
    except OSError:
        return -1


def _picture_root(root: Path) -> Path:
    with os.scandir(root) as listing:
        inner = [entry.path for entry in listing if entry.name.lower() in PICTURE_FOLDERS and entry.is_dir()]
    return Path(inner[0]) if len(inner) == 1 else root
