"""What a folder's ``manifest.json`` says of its files: their checksums, to tell damage from what was written."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

MANIFEST = "manifest.json"
_PIECE = 1 << 22


@dataclass(frozen=True)
class Entry:
    """What a file held when it was written: its SHA-256 in hexadecimal, its bytes, and the optimizer step."""

    sha256: str
    bytes: int
    step: int


def read(folder: Path) -> dict[str, list[Entry]]:
    """The entries.

    Raises:
        FileNotFoundError: there is no manifest.
        OSError: it cannot be read now.
        ValueError: it is damaged.
    """
    text = (folder / MANIFEST).read_bytes()
    try:
        return {name: [Entry(**one) for one in known] for name, known in json.loads(text)["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise ValueError(f"{folder / MANIFEST} is damaged") from problem


def entries(folder: Path) -> dict[str, list[Entry]]:
    """The manifest: for each file name the checksums that it may have (two while one is being replaced); empty where none can be read."""
    try:
        return read(folder)
    except (OSError, ValueError):
        return {}


def unchecked(file: Path) -> str | None:
    """Why nobody can say whether a file is what was written, or None where its checksum is known; a folder has those of its parts."""
    file = file.resolve()
    if file.is_dir():
        return None
    try:
        state = None if read(file.parent).get(file.name) else "does not name it"
    except FileNotFoundError:
        state = "is missing"
    except ValueError:
        state = "is damaged"
    except OSError as problem:
        state = f"cannot be read: {problem.strerror}"
    return state and f"its checksums are lost ({MANIFEST} {state}), it is not checked"


def changed(file: Path, known: list[Entry]) -> str | None:
    """Why a file is none of those known under its name, or None where it is one of them."""
    try:
        size = file.stat().st_size
        if size not in {entry.bytes for entry in known}:
            return f"it has {size:,} bytes, {known[-1].bytes:,} were written"
        digest = measure(file).sha256
    except OSError as problem:
        return f"it cannot be read ({problem})"
    return None if digest in {entry.sha256 for entry in known} else "its content is not what was written (another checksum)"


def measure(file: Path) -> Entry:
    """Checksum and size of a file as it lies there."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while piece := opened.read(_PIECE):
            digest.update(piece)
    return Entry(digest.hexdigest(), file.stat().st_size, -1)


def listing(known: dict[str, list[Entry]]) -> bytes:
    """The text of a manifest with these entries."""
    files = {name: [asdict(one) for one in ones] for name, ones in sorted(known.items())}
    return json.dumps({"files": files}, indent=1).encode()
