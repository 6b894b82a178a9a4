"""Files on a disk: which are pictures, all below a folder, and which of many are missing."""

from __future__ import annotations

import os
import stat
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from heapq import nsmallest
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pnm", ".avif", ".jp2")

_name = attrgetter("name")
_unreadable: set[str] = set()  # folders that were told


class Folder(NamedTuple):
    """One folder as it was when its time was taken: the path, when entries last came or went (ns), and its files, sorted."""

    path: str
    changed: int
    files: list[os.DirEntry[str]]


def is_picture(name: str) -> bool:
    """Whether a file name ends like a picture's; hidden files do not count."""
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def outside(name: str) -> bool:
    """Whether a name leads out of the folder that it is relative to."""
    return os.path.isabs(name) or ".." in name.split("/")  # noqa: PTH117 (a string operation, a million times)


def check_regular(file: Path) -> None:
    """Nothing where ``file`` is a regular file (or a link to one).

    Raises:
        ValueError: it is a folder, a device or a pipe, which might never end.
        OSError: it is gone.
    """
    if not stat.S_ISREG(file.stat().st_mode):
        raise ValueError(f"{file} is no regular file; list only pictures")


def walk(root: Path) -> Iterator[os.DirEntry[str]]:
    """All files below ``root`` in sorted order, without hidden ones; links are followed, each folder is visited once."""
    for folder in walk_folders(root):
        yield from folder.files


def first_files(root: Path, most: int) -> list[os.DirEntry[str]]:
    """The first ``most`` files of ``walk``, without sorting a folder of a million."""
    return list(islice((entry for folder in walk_folders(root, most) for entry in folder.files), most))


def walk_folders(root: Path, most: int | None = None) -> Iterator[Folder]:
    """``root`` and all folders below it, hidden ones left out, in the order of ``walk``; of each folder's files the first ``most``.

    A folder below ``root`` that may not be read is passed over, with one warning.
    """
    visited: set[tuple[int, int]] = set()
    waiting = [os.fspath(root)]
    while waiting:
        folder = waiting.pop()
        try:
            status = os.stat(folder)  # noqa: PTH116 (before the listing: what comes in between shows in the next status)
            with os.scandir(folder) as listing:
                entries = [entry for entry in listing if not entry.name.startswith(".")]
        except PermissionError:
            if folder == os.fspath(root):
                raise
            _tell_unreadable(folder)
            continue
        if (status.st_dev, status.st_ino) in visited:  # a link to a folder above or beside: no loop, no picture twice
            continue
        visited.add((status.st_dev, status.st_ino))
        files = [entry for entry in entries if entry.is_file()]
        yield Folder(folder, status.st_mtime_ns, sorted(files, key=_name) if most is None else nsmallest(most, files, key=_name))
        inner = [entry for entry in entries if entry.is_dir()]
        waiting.extend(entry.path for entry in sorted(inner, key=_name, reverse=True))


def _tell_unreadable(folder: str) -> None:
    if folder not in _unreadable:
        _unreadable.add(folder)
        warnings.warn(f"{folder} may not be read: what is in it is left out; chmod it, or move it away", RuntimeWarning, stacklevel=3)


def missing(root: Path, names: Sequence[str]) -> set[str]:
    """Those of ``names`` (paths, absolute or relative to ``root``) that are not there; each folder is listed once."""
    by_folder: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_folder[os.path.dirname(name)].append(name)  # noqa: PTH120 (a string operation, a million times)
    gone: set[str] = set()
    for folder, members in by_folder.items():
        try:
            there = {entry.name for entry in os.scandir(root / folder)}
        except OSError:
            there = set()
        gone.update(name for name in members if name.rpartition("/")[2] not in there)
    return gone
