"""The folder of a run: numbered, checked, taken; and the closing lines about what lies in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mae_vlm import storage


def next_version(root: Path) -> Path:
    """``root/version_N`` with the first number above all that are there."""
    numbers = [int(path.name.removeprefix("version_")) for path in root.glob("version_*") if path.name.removeprefix("version_").isdigit()]
    return root / f"version_{max(numbers, default=-1) + 1}"


def folder_of(checkpoint: Path) -> Path:
    """The run that a checkpoint lies in; a loose file's own folder."""
    parent = checkpoint.parent
    return parent.parent if parent.name == "checkpoints" else parent


def check_writable(root: Path) -> None:
    """See that runs can be made below ``root``, without making anything.

    Raises:
        ValueError: they cannot.
    """
    there = next(place for place in (root, *root.parents) if place.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise ValueError(f"no run can be written to {root}: {there} is not a folder that you may write to; set --trainer.default_root_dir")


def take(folder: Path, config: str) -> None:
    """Make the folder of a new run and write its ``config.yaml``.

    Raises:
        ValueError: another run, started at the same time, has taken it.
        OSError: there is no room; the folder is not left behind.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError as problem:
        raise ValueError(f"another run has just taken {folder}; start this one again") from problem
    try:
        storage.write_whole(folder / "config.yaml", lambda file: file.write(config.encode()))
    except OSError:
        folder.rmdir()
        raise


def closing_lines(
    folder: Path, start: dict[str, float], end: dict[str, float], picture: Path | None, probes: Sequence[str] = ()
) -> list[str]:
    """What a run ends with: its validation metrics at start and end, what its probes say (in lines), and where to look."""
    widest = max((len(name) for name in end), default=0)
    lines = ["", f"{'validation':<{widest}}  {'start':>8}  {'end':>8}"]
    lines += [f"{name:<{widest}}  {start.get(name, float('nan')):>8.4f}  {end[name]:>8.4f}" for name in sorted(end)]
    lines += [*probes, "", f"run folder:   {folder}"]
    if picture is not None:
        what = "   (original, masked, reconstruction, pasted)" if picture.name.startswith("reconstruction") else ""
        lines.append(f"picture:      {picture}{what}")
    return [*lines, f"look at it:   tensorboard --logdir {folder}"]
