"""``mae_vlm.json``: the file by which a push knows again what an earlier push has put somewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mae_vlm.manifest import measure

RECORD = "mae_vlm.json"
FORMAT = 1
HOUSEHOLD = frozenset({".gitattributes", RECORD})  # what the hub and we put there ourselves


@dataclass(frozen=True)
class Held:
    """What lies at a target: the names of its files, and those of them that our own pushes put there; None where no push was."""

    names: frozenset[str]
    ours: frozenset[str] | None


def written(files: Mapping[str, Path], step: int, version: str) -> bytes:
    """The record of a push of ``files`` (name there to file here) by a ``version`` of this tool, each with its SHA-256 and bytes."""
    known = {name: measure(file) for name, file in sorted(files.items())}
    told = {name: {"sha256": one.sha256, "bytes": one.bytes} for name, one in known.items()}
    return json.dumps({"format": FORMAT, "made_by": f"mae_vlm {version}", "step": step, "files": told}, indent=1).encode()


def read(text: bytes) -> frozenset[str]:
    """The names that a record tells.

    Raises:
        ValueError: it is none of ours.
    """
    try:
        content = json.loads(text)
        assert content["made_by"].startswith("mae_vlm ")
        return frozenset(map(str, content["files"]))
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as problem:
        raise ValueError(f"its {RECORD} is none that a push has written") from problem


def to_remove(where: str, held: Held | None, names: set[str], force: bool) -> list[str]:
    """Files of an earlier push that this one, of ``names``, no longer has.

    Raises:
        ValueError: somebody else's files lie there, or would be replaced, and nobody said ``force``.
    """
    if held is None:
        return []
    others = held.names - (held.ours or frozenset()) - HOUSEHOLD
    in_the_way = sorted(others & names) if held.ours is not None else sorted(others)
    if in_the_way and not force:
        how = "that this push would replace" if held.ours is not None else "that no push of this tool has put there"
        count = f"{len(in_the_way)} file{'s' * (len(in_the_way) > 1)}"
        raise ValueError(
            f"{where} holds {count} {how}, such as {in_the_way[0]}; nothing was uploaded: choose another target, or add --force (files of "
            "the same name are replaced, all others stay)"
        )
    return sorted((held.ours or frozenset()) & held.names - names - HOUSEHOLD)
