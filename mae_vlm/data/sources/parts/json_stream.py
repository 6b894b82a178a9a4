"""A large JSON file read one element at a time: no tree of its half a gigabyte is ever in memory."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

_SPACE = re.compile(r"[ \t\r\n]*")
_BOM = "\xef\xbb\xbf"


class Element(NamedTuple):
    """One element of a list at the top of the file: the list's key, the value, and the bytes [start, end) where it stands."""

    key: str
    value: Any
    start: int
    end: int


def elements(file: Path) -> Iterator[Element]:
    """The elements of all lists that are members of the file's one object, in file order; members that are no lists are passed over.

    The text is read as Latin-1, so that a place in it is a byte of the file, and elements with other letters are read again as UTF-8.

    Raises:
        ValueError: the file is not JSON, is cut short, or is no object.
    """
    text = _text(file)
    plain, decode = text.isascii(), json.JSONDecoder().raw_decode
    try:
        at = _skip(text, len(_BOM) if text.startswith(_BOM) else 0, "{")
        while text[at] != "}":
            key, at = decode(text, at)
            at = _skip(text, at, ":")
            if text[at] != "[":
                at = _comma(text, decode(text, at)[1])
                continue
            at = _skip(text, at, "[")
            while text[at] != "]":
                value, end = decode(text, at)
                yield Element(key, value if plain or text[at:end].isascii() else _as_utf8(text[at:end]), at, end)
                at = _comma(text, end)
            at = _comma(text, at + 1)
    except (ValueError, IndexError, RecursionError) as error:
        raise ValueError(f"{file} is not a JSON object, or is cut short ({error}); write it again") from None


def value_at(file: Path, spots: list[tuple[int, int]]) -> list[Any]:
    """The elements that stand at these bytes [start, end).

    Raises:
        ValueError: the file has changed since they were found.
    """
    with file.open("rb") as opened:
        found = []
        for start, end in spots:
            opened.seek(start)
            try:
                found.append(json.loads(opened.read(end - start)))
            except ValueError:
                raise ValueError(f"{file} has changed since it was read; start again") from None
    return found


def ends(file: Path, size: int = 65536) -> str:
    """The first and the last ``size`` bytes of a file as text, to tell what it is."""
    with file.open("rb") as opened:
        head = opened.read(size)
        opened.seek(max(len(head), opened.seek(0, 2) - size))
        return (head + b"\n" + opened.read(size)).decode("latin-1")


def _text(file: Path) -> str:
    if not file.stat().st_size:
        raise ValueError(f"{file} is empty; write it again")
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as view:
        return str(view, "latin-1")


def _as_utf8(text: str) -> Any:
    return json.loads(text.encode("latin-1"))


def _skip(text: str, at: int, mark: str) -> int:
    """The place after ``mark`` and the white space around it."""
    at = _space(text, at)
    if not text.startswith(mark, at):
        raise json.JSONDecodeError(f"expected {mark!r}", text, at)
    return _space(text, at + len(mark))


def _space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def _comma(text: str, at: int) -> int:
    """The place of what follows: of the next element after a comma, or of the closing bracket."""
    at = _space(text, at)
    if text[at] == ",":
        return _space(text, at + 1)
    if text[at] not in "]}":
        raise json.JSONDecodeError("expected ',' or the end", text, at)
    return at
