"""What several collections say of the classes of their objects: their own numbers, and which are stuff."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol


class Kinds(Protocol):
    """Classes of objects, their numbers in the collection's own files and those that are stuff; see ``Source``."""

    object_classes: list[str] | None
    object_ids: list[int] | None
    stuff: list[str] | None


def joined_ids(names: Sequence[str] | None, parts: Iterable[Kinds]) -> list[int] | None:
    """The own numbers of the classes ``names``; None where the parts do not number all of them, or not alike."""
    pairs = {pair for part in parts for pair in zip(part.object_classes or [], part.object_ids or [], strict=False)}
    of = dict(pairs)
    once = len(pairs) == len(of) == len(set(of.values()))
    return [of[name] for name in names] if names and once and of.keys() == set(names) else None


def joined_stuff(names: Sequence[str] | None, parts: Iterable[Kinds]) -> list[str] | None:
    """Those of ``names`` that are stuff in some part; None where no part says."""
    told = [part.stuff for part in parts if part.stuff is not None]
    return [name for name in names or [] if any(name in one for one in told)] if told else None
