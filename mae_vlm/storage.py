"""Files that survive: written beside their target, synced, renamed, with checksums; and which of a folder is newest and whole."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

MANIFEST = "manifest.json"
LAST = "last.ckpt"
_PIECE = 1 << 22
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Entry:
    """What a file held when it was written: its SHA-256 in hexadecimal, its bytes, and the optimizer step."""

    sha256: str
    bytes: int
    step: int


class _Hashing:
    """A file that is written front to back, and hashed on the way; once it fails, the rest is only counted: that many are needed."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.hash, self.count = file, hashlib.sha256(), 0
        self.problem: OSError | None = None

    def write(self, data: Any) -> int:
        size = len(memoryview(data).cast("B"))
        self.count += size
        if self.problem is None:
            self.hash.update(data)
            try:
                self.file.write(data)
            except OSError as problem:  # not raised here: torch would make a RuntimeError of it
                self.problem = problem
        return size

    def flush(self) -> None:
        if self.problem is None:
            self.file.flush()


def write_whole(target: Path, write: Callable[[Any], None], step: int = -1) -> Entry:
    """Let ``write`` fill ``target`` as a stream: readers see the old file or the whole new one, also after a power cut.

    With ``step`` the folder's manifest learns the new checksum before the name changes, so that at every moment the file under the name has
    its checksum there. The parts lie in the target's own folder: never in ``$TMPDIR``, never on another file system.

    Raises:
        OSError: no room (it says how much is needed and how much is free), no permission; the old file stays and no part is left.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = partial(target)
    try:
        hashing = _fill(part, write)
        if hashing.problem is not None:
            raise _explained(hashing.problem, target, hashing.count, part) from hashing.problem
        entry = Entry(hashing.hash.hexdigest(), hashing.count, step)
        if step >= 0:
            _remember(target, entry)
        _rename(part, target)
    finally:
        discard(part)
    return entry


def partial(target: Path) -> Path:
    """The name under which what will be ``target`` is written."""
    return target.with_name(target.name + ".partial")


def make_folder(folder: Path) -> None:
    """An empty folder, whatever was there."""
    discard(folder)
    folder.mkdir(parents=True)


def seal(part: Path, target: Path, files: dict[str, Entry], step: int) -> None:
    """Give a folder that all have filled, and put on the disk, its manifest and its name.

    Its own manifest has the checksum of each file, the manifest beside it the checksum of its own: nothing in it can change unseen.

    Raises:
        OSError: it still has its old name.
    """
    own = write_whole(part / MANIFEST, lambda file: file.write(_listing({name: [entry] for name, entry in files.items()})))
    _sync_folder(part)
    _remember(target, Entry(own.sha256, own.bytes, step))
    _rename(part, target)


def measure(file: Path) -> Entry:
    """Checksum and size of a file as it lies there."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while piece := opened.read(_PIECE):
            digest.update(piece)
    return Entry(digest.hexdigest(), file.stat().st_size, -1)


def discard(place: Path) -> None:
    """Delete a file, or a folder with all it holds, if it is there; a disk that became read-only may keep it."""
    with suppress(OSError):
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)


def _rename(part: Path, target: Path) -> None:
    """Give ``part`` its name at one stroke; with folders it takes two, and nothing has the name in between."""
    old = target.with_name(target.name + ".old.partial")
    if target.exists() and (target.is_dir() or part.is_dir()):
        discard(old)
        target.replace(old)
    part.replace(target)
    _sync_folder(target.parent)
    discard(old)


def _fill(part: Path, write: Callable[[Any], None]) -> _Hashing:
    """Let ``write`` fill the file and put it on the disk; what the system refuses is kept in ``problem``."""
    hashing = None
    try:
        with part.open("wb") as file:
            hashing = _Hashing(file)
            write(hashing)
            hashing.flush()
            os.fsync(file.fileno())
    except OSError as problem:  # on a full disk closing fails too
        if hashing is None or problem.errno is None:
            raise
        hashing.problem = hashing.problem or problem
    return hashing


def _explained(problem: OSError, target: Path, needed: int, part: Path) -> OSError:
    """The same error with the file that could not be written, and, where there was no room, with the bytes needed and free."""
    why = problem.strerror or str(problem)
    if problem.errno in _NO_ROOM:
        taken = part.stat().st_size if part.exists() else 0
        why += f"; it needs {needed:,} bytes, {shutil.disk_usage(target.parent).free + taken:,} are free"
    return OSError(problem.errno, why, str(target))


def point(link: Path, target: Path) -> None:
    """Make ``link`` a relative link to ``target`` in the same folder, at one stroke; a hard link where links are not possible."""
    part = partial(link)
    part.unlink(missing_ok=True)
    try:
        part.symlink_to(target.name)
    except OSError:
        if target.is_dir():  # has no hard links; it is found by its step
            return
        os.link(target, part)
    part.replace(link)
    _sync_folder(link.parent)


def remove(file: Path) -> None:
    """Delete a checkpoint, then its checksum; a folder loses its name first, so that none is ever seen half-deleted."""
    if file.is_dir():
        gone = file.replace(partial(file))
        shutil.rmtree(gone)
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
    """Why a checkpoint is not what was written, or None where it is; a file that no manifest knows is not judged, a folder has its own."""
    file = file.resolve()
    known = entries(file.parent).get(file.name)
    if not file.is_dir():
        return _changed(file, known) if known else None
    inside = entries(file)
    if not inside:
        return f"its {MANIFEST} is missing or unreadable"
    if known and (reason := _changed(file / MANIFEST, known)):
        return f"{MANIFEST}: {reason}"
    reasons = ((name, _changed(file / name, ones)) for name, ones in inside.items())
    return next((f"{name}: {reason}" for name, reason in reasons if reason), None)


def _changed(file: Path, known: list[Entry]) -> str | None:
    """Why a file is none of those known under its name, or None."""
    try:
        size = file.stat().st_size
        if size not in {entry.bytes for entry in known}:
            return f"it has {size:,} bytes, {known[-1].bytes:,} were written"
        digest = measure(file).sha256
    except OSError as problem:
        return f"it cannot be read ({problem})"
    return None if digest in {entry.sha256 for entry in known} else "its content is not what was written (another checksum)"


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, files or folders in pieces, the newest (by step) first; ``last.ckpt`` only where it is no link."""
    known = entries(folder)

    def age(file: Path) -> tuple[int, float]:
        numbered = re.fullmatch(r"step_(\d+)\.ckpt", file.name)
        step = known[file.name][-1].step if known.get(file.name) else int(numbered.group(1)) if numbered else -1
        return step, file.stat().st_mtime

    files = [file for file in folder.glob("*.ckpt") if (file.is_file() or file.is_dir()) and not file.is_symlink()]
    return sorted(files, key=age, reverse=True)


def _remember(target: Path, entry: Entry) -> None:
    there = target.exists()

    def add(known: dict[str, list[Entry]]) -> None:
        known[target.name] = [*(known.get(target.name, [])[-1:] if there else []), entry]

    _update(target.parent, add)


def _update(folder: Path, change: Callable[[dict[str, list[Entry]]], object]) -> None:
    known = entries(folder)
    change(known)
    text = _listing(known)
    write_whole(folder / MANIFEST, lambda file: file.write(text))


def _listing(known: dict[str, list[Entry]]) -> bytes:
    files = {name: [asdict(one) for one in ones] for name, ones in sorted(known.items())}
    return json.dumps({"files": files}, indent=1).encode()


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
