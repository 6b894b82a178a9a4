"""Names of the classes of tar shards: ``dataset.json`` or ``classes.txt`` beside them, or one folder above."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mae_vlm.data.remote import find_remote
from mae_vlm.data.sources.parts.sample_json import MARK, VERSION
from mae_vlm.data.sources.parts.tar_members import LocalFile, Shard

_MOST = 64 << 20  # bytes


def shard_classes(
    shard: Shard, classes: list[str] | None = None, object_classes: list[str] | None = None
) -> tuple[list[str] | None, list[str] | None]:
    """(names of the labels, names of the objects' classes), None where they are not told.

    Args:
        shard: any shard of the collection.
        classes: names that another part of the collection goes by; this part's must be the first of them.
        object_classes: likewise.

    Raises:
        ValueError: the file is damaged, or the names are others than those given.
    """
    found = _described(shard)
    return _agreed(found.get("classes"), classes, shard), _agreed(found.get("object_classes"), object_classes, shard)


def _described(shard: Shard) -> dict[str, Any]:
    for folder in (shard.folder, shard.folder.rpartition("/")[0]):
        text = _text(shard, f"{folder}/dataset.json")
        if text is not None:
            return _checked(text, f"{folder}/dataset.json")
        text = _text(shard, f"{folder}/classes.txt")
        if text is not None:
            return {"classes": [line.strip() for line in text.splitlines() if line.strip()]}
    return {}


def _text(shard: Shard, file: str) -> str | None:
    """What a small text file holds; None where there is none."""
    if isinstance(shard, LocalFile):
        return Path(file).read_text("utf-8") if Path(file).is_file() else None
    found = find_remote(file)
    return found.read(found.size, 0).decode("utf-8") if found is not None and found.size <= _MOST else None


def _checked(text: str, file: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}); write the shards again, or remove it") from None
    if not isinstance(found, dict) or found.get(MARK, VERSION) != VERSION:
        raise ValueError(f"{file} is not of version {VERSION} of our layout; update mae_vlm, or remove the file")
    for key in ("classes", "object_classes"):
        names = found.get(key)
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise ValueError(f"{file}: {key} is not a list of names; correct it")
    return found


def _agreed(own: list[str] | None, given: list[str] | None, shard: Shard) -> list[str] | None:
    if own and given and own != given[: len(own)]:
        raise ValueError(
            f"{shard} numbers its classes as {', '.join(own[:3])} ..., the part before it as {', '.join(given[:3])} ...; "
            "write both with the same classes"
        )
    return given or own or None
