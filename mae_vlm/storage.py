"""Files that survive: written beside their target, synced, renamed, with checksums; and which of a folder is newest and whole."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

MANIFEST = "manifest.json"
LAST = "last.ckpt"
_PIECE = 1 << 22


@dataclass(frozen=True)
class Entry:
    """What a file held when it was written: its SHA-256 in hexadecimal, its bytes, and the optimizer step."""

    sha256: str
    bytes: int
    step: int


class _Hashing:
    """A file that is written front to back, and hashed on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.hash, self.count = file, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        self.hash.update(data)
        self.count += len(memoryview(data).cast("B"))
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def write_whole(target: Path, write: Callable[[Any], None], step: int = -1) -> Entry:
    """Let ``write`` fill ``target`` as a stream: readers see the old file or the whole new one, also after a power cut.

    With ``step`` the folder's manifest learns the new checksum before the name changes, so that at every moment the file under the name has
    its checksum there. The parts lie in the target's own folder: never in ``$TMPDIR``, never on another file system.

    Raises:
        OSError: no room, no permission; the old file stays and no part is left.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    try:
        with partial.open("wb") as file:
            hashing = _Hashing(file)
            write(hashing)
            file.flush()
            os.fsync(file.fileno())
        entry = Entry(hashing.hash.hexdigest(), hashing.count, step)
        if step >= 0:
            _remember(target, entry)
        partial.replace(target)
        _sync_folder(target.parent)
    finally:
        partial.unlink(missing_ok=True)
    return entry


def point(link: Path, target: Path) -> None:
    """Make ``link`` a relative link to ``target`` in the same folder, at one stroke; a hard link where links are not possible."""
    partial = link.with_name(link.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        partial.symlink_to(target.name)
    except OSError:
        os.link(target, partial)
    partial.replace(link)
    _sync_folder(link.parent)


def remove(file: Path) -> None:
    """Delete a checkpoint, then its checksum."""
    file.unlink(missing_ok=True)
    _update(file.parent, lambda entries: entries.pop(file.name, None))


def entries(folder: Path) -> dict[str, list[Entry]]:
    """The manifest: for each file name the checksums that it may have (two while one is being replaced); empty where there is none."""
    try:
        listed = json.loads((folder / MANIFEST).read_text())["files"]
        return {name: [Entry(**one) for one in known] for name, known in listed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def damage(file: Path) -> str | None:
    """Why a checkpoint is not what was written, or None where it is; a file that no manifest knows is not judged."""
    file = file.resolve()
    known = entries(file.parent).get(file.name)
    if not known:
        return None
    try:
        size = file.stat().st_size
        if size not in {entry.bytes for entry in known}:
            return f"it has {size:,} bytes, {known[-1].bytes:,} were written"
        digest = hashlib.sha256()
        with file.open("rb") as opened:
            while piece := opened.read(_PIECE):
                digest.update(piece)
    except OSError as problem:
        return f"it cannot be read ({problem})"
    return None if digest.hexdigest() in {entry.sha256 for entry in known} else "its content is not what was written (another checksum)"


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoint files of a folder, the newest (by step) first; ``last.ckpt`` only where it is a file of its own."""
    known = entries(folder)

    def age(file: Path) -> tuple[int, float]:
        numbered = re.fullmatch(r"step_(\d+)\.ckpt", file.name)
        step = known[file.name][-1].step if known.get(file.name) else int(numbered.group(1)) if numbered else -1
        return step, file.stat().st_mtime

    files = [file for file in folder.glob("*.ckpt") if file.is_file() and not file.is_symlink()]
    return sorted(files, key=age, reverse=True)


def _remember(target: Path, entry: Entry) -> None:
    there = [target.name] if target.is_file() else []

    def add(known: dict[str, list[Entry]]) -> None:
        known[target.name] = [*(known.get(target.name, [])[-1:] if there else []), entry]

    _update(target.parent, add)


def _update(folder: Path, change: Callable[[dict[str, list[Entry]]], object]) -> None:
    known = entries(folder)
    change(known)
    files = {name: [asdict(one) for one in ones] for name, ones in sorted(known.items())}
    text = json.dumps({"files": files}, indent=1).encode()
    write_whole(folder / MANIFEST, lambda file: file.write(text))


def _sync_folder(folder: Path) -> None:
    """Put a rename on the disk, where the system knows how."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems cannot sync a folder
    finally:
        os.close(handle)
