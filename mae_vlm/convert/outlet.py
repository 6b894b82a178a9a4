"""Files that appear whole or not at all, and over nothing that is there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def deliver(out: Path, write: Callable[[Path], list[Path]], force: bool) -> list[Path]:
    """Let ``write`` fill an empty folder beside ``out``, then move its files into ``out``; on any error nothing is left.

    Raises:
        ValueError: ``out`` is a file, or holds anything and ``force`` is not said; with it only files of the same names are replaced.
        OSError: no permission, no room.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} exists already and is a file; --out names a folder")
    if out.is_dir() and any(out.iterdir()) and not force:
        there = sorted(file.name for file in out.iterdir())
        raise ValueError(f"{out} exists already and holds {', '.join(there[:3])}; choose another --out, or say --force to write over it")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".partial", dir=out.parent) as folder:
        made = Path(folder) / "made"
        made.mkdir()
        write(made)
        return [_moved(file, out / file.relative_to(made)) for file in sorted(made.rglob("*")) if file.is_file()]


def _moved(file: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        shutil.rmtree(target)
    return file.replace(target)
