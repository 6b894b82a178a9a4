"""Files with one JSON object a line, whatever they end in: which are of a form, and one line at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from mae_vlm.data.sources.base import Place, Source
from mae_vlm.data.sources.parts.split_names import split_in
from mae_vlm.data.sources.parts.together import together

_SUFFIXES = (".jsonl", ".json")
_MOST_FILES = 100
_LONGEST = 1 << 20  # bytes of a first line: a file that is one large object is not read to its end


class Line(NamedTuple):
    """One object of a file, and the byte at which it begins."""

    value: dict[str, Any]
    start: int


def lines(file: Path) -> Iterator[Line]:
    """The objects of a file; empty lines are passed over.

    Raises:
        ValueError: a line is no JSON object; with its number.
    """
    start = 0
    with file.open("rb") as opened:
        for number, text in enumerate(opened, 1):
            if text.strip():
                yield Line(_object(text, f"line {number} of {file}"), start)
            start += len(text)


def line_at(file: Path, start: int) -> dict[str, Any]:
    """The object whose line begins there.

    Raises:
        ValueError: none does; the file has changed.
        OSError: it is gone.
    """
    with file.open("rb") as opened:
        opened.seek(start)
        return _object(opened.readline(), f"byte {start} of {file}")


def _object(text: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"{where} is no JSON object; write one object a line")
    return value


def files_of(place: Place, keys: frozenset[str]) -> list[Path]:
    """The files whose first object has these keys: those that the user named, or in the root folders or a folder in them."""
    named = [root / name for root in place.roots for name in place.annotations]
    found = named or [file for root in place.roots for file in ([root] if root.is_file() else _near(root))]
    return [file for file in found if file.suffix.lower() in _SUFFIXES and file.is_file() and keys <= _first(file).keys()]


def _near(root: Path) -> list[Path]:
    own = sorted(file for suffix in _SUFFIXES for file in root.glob(f"*{suffix}"))
    return (own or sorted(file for suffix in _SUFFIXES for file in root.glob(f"*/*{suffix}")))[:_MOST_FILES]


def _first(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            return _object(opened.readline(_LONGEST).removeprefix(b"\xef\xbb\xbf"), "")
    except (OSError, ValueError):
        return {}


def open_parts(place: Place, files: list[Path], read: Callable[[Path, Place], Source], what: str) -> dict[str, Source]:
    """A source for each file by the part that its name tells, or one of all where none is for training.

    Raises:
        ValueError: there is no file.
    """
    if not files:
        raise ValueError(f"data.path {place.path} holds no {what}; name the files by data.annotations")
    parts: dict[str, list[Path]] = {}
    for file in files:
        parts.setdefault(split_in(file.stem) or "all", []).append(file)
    for more in (file for several in parts.values() if len(several) > 1 and "train" in parts for file in several[1:]):
        place.problems.add("second file of a part", more, more.stem, "it is left out; name it by data.annotations instead of the first")
    if "train" not in parts or len(parts) == 1:
        return {"all": together([read(file, place) for file in files])}
    return {part: read(several[0], place) for part, several in parts.items() if part != "all"}


def spread(rows: list[Any], count: int = 20) -> list[Any]:
    """A few of many, spread evenly."""
    return list(islice(rows, 0, None, max(1, len(rows) // count)))
