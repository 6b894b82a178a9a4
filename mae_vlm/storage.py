"""Files that survive: written beside their target, synced, renamed, with checksums; and which of a folder is newest and whole."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from mae_vlm import manifest
from mae_vlm.manifest import MANIFEST as MANIFEST
from mae_vlm.manifest import Entry as Entry
from mae_vlm.manifest import changed, listing
from mae_vlm.manifest import entries as entries
from mae_vlm.manifest import measure as measure
from mae_vlm.manifest import unchecked as unchecked

LAST = "last.ckpt"
_OLD = ".old.partial"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
    own = write_whole(part / MANIFEST, lambda file: file.write(listing({name: [entry] for name, entry in files.items()})))
    _sync_folder(part)
    _remember(target, Entry(own.sha256, own.bytes, step))
    _rename(part, target)


def discard(place: Path) -> None:
    """Delete a file, or a folder with all it holds, if it is there; a disk that became read-only may keep it."""
    with suppress(OSError):
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)


def _rename(part: Path, target: Path) -> None:
    """Give ``part`` its name at one stroke; with folders it takes two: who is killed in between leaves both to :func:`recover`."""
    old = target.with_name(target.name + _OLD)
    if target.exists() and (target.is_dir() or part.is_dir()):
        discard(old)
        target.replace(old)
    try:
        part.replace(target)
    except OSError:
        if old.exists():
            old.replace(target)
        raise
    _sync_folder(target.parent)
    discard(old)


def recover(folder: Path) -> None:
    """Give its name back to a checkpoint that was being replaced when its writer was killed: the new one where it is whole, else the old.

    Only where both renames were under way, so that who reads never takes a part from a writer at work.
    """
    for old in folder.glob(f"*.ckpt{_OLD}"):
        target = old.with_name(old.name.removesuffix(_OLD))
        known = entries(folder).get(target.name)
        for part in (partial(target), old):
            if part.exists() and not target.exists() and _fault(part, known) is None:
                with suppress(OSError):  # read-only; or the writer lives, and was faster
                    part.replace(target)


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
        gone = file.replace(partial(file.with_name(file.name + ".gone")))
        shutil.rmtree(gone)
    file.unlink(missing_ok=True)
    _update(file.parent, lambda entries: entries.pop(file.name, None))


def damage(file: Path) -> str | None:
    """Why a checkpoint is not what was written, or None where it is; a file that no manifest knows is not judged, a folder has its own."""
    file = file.resolve()
    return _fault(file, entries(file.parent).get(file.name))


def _fault(file: Path, known: list[Entry] | None) -> str | None:
    """Why a file or folder is none of those known, or None; a folder is held against its own manifest too."""
    if not file.is_dir():
        return changed(file, known) if known else None
    inside = entries(file)
    if not inside:
        return f"its {MANIFEST} is missing or unreadable"
    if known and (reason := changed(file / MANIFEST, known)):
        return f"{MANIFEST}: {reason}"
    reasons = ((name, changed(file / name, ones)) for name, ones in inside.items())
    return next((f"{name}: {reason}" for name, reason in reasons if reason), None)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, files or folders in pieces, the newest (by step) first; ``last.ckpt`` only where it is no link."""
    recover(folder)
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
    try:
        known = manifest.read(folder)
    except FileNotFoundError:
        known = {}
    except ValueError as problem:  # one that only cannot be read now is not replaced: all checksums would be gone for good
        known = {}
        warnings.warn(f"{problem}; it is begun anew, and the checkpoints written before are not checked", RuntimeWarning, stacklevel=1)
    change(known)
    text = listing(known)
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
