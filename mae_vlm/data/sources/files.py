"""Files on a disk: which are pictures, all below a folder, and which of many are missing."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pnm", ".avif", ".jp2")


def is_picture(name: str) -> bool:
    """Whether a file name ends like a picture's; hidden files do not count."""
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def walk(root: Path) -> Iterator[os.DirEntry[str]]:
    """All files below ``root`` in sorted order, without hidden ones; links are followed, each folder is visited once."""
    visited: set[tuple[int, int]] = set()
    waiting = [os.fspath(root)]
    while waiting:
        folder = waiting.pop()
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in visited:  # a link to a folder above or beside: no loop, no picture twice
            continue
        visited.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as listing:
            entries = sorted((entry for entry in listing if not entry.name.startswith(".")), key=lambda entry: entry.name)
        yield from (entry for entry in entries if entry.is_file())
        waiting.extend(entry.path for entry in reversed(entries) if entry.is_dir())


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
