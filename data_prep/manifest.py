"""What stands beside the shards: dataset.json when all is done, and until then a journal of the shards that are."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_prep.shard_writer import Record
from data_prep.whole_file import write_whole
from mae_vlm.data.sources.parts.sample_json import MARK, VERSION

MANIFEST, JOURNAL, UNREADABLE = "dataset.json", ".shards.journal", "unreadable.jsonl"


class Journal:
    """A line of settings, then a line for each finished shard; a last line that a kill cut short is passed over.

    Raises:
        ValueError: the folder holds shards of other settings, or something else.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self.path = folder, folder / JOURNAL
        self.known: dict[str, Record] = {}
        lines = _lines(self.path)
        if (folder / MANIFEST).exists():
            self.known = _from_manifest(folder, settings)
        elif lines:
            _same_settings(lines[0], settings, folder)
            self.known = {line["name"]: Record(**line) for line in lines[1:]}
        elif folder.is_dir() and any(folder.iterdir()):
            raise ValueError(f"{folder} is not empty and holds no shards of this command; give another folder, or empty it")
        folder.mkdir(parents=True, exist_ok=True)
        for partial in folder.glob("*.part"):
            partial.unlink()
        self._settings = settings
        write_whole(self.path, b"".join(map(_line, [settings, *(asdict(record) for record in self.known.values())])))
        self._file = self.path.open("ab")

    def add(self, record: Record) -> None:
        """One more shard is finished."""
        if self.known.get(record.name) != record:
            self._file.write(_line(asdict(record)))
            self._file.flush()

    def finish(self, records: list[Record], names: dict[str, list[str] | None]) -> None:
        """Write dataset.json and unreadable.jsonl; the journal is not needed any more."""
        self._file.close()
        lost = [(record.name, *one) for record in records for one in record.unreadable]
        if lost:
            keys = ("shard", "index", "name", "reason")
            write_whole(self.folder / UNREADABLE, b"".join(_line(dict(zip(keys, one, strict=True))) for one in lost))
        shards = {one.name: {"samples": one.samples, "bytes": one.bytes, "sha256": one.sha256} for one in records if one.samples}
        told = {MARK: VERSION, **{key: value for key, value in names.items() if value is not None}}
        told |= {"samples": sum(one.samples for one in records), "unreadable": len(lost), "shards": shards, "made": self._settings}
        write_whole(self.folder / MANIFEST, json.dumps(told, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace"))
        self.path.unlink()


def read_manifest(folder: Path) -> dict[str, Any]:
    """dataset.json of a folder of shards.

    Raises:
        ValueError: there is none, or it is not one.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give a folder that data_prep shards has finished")
    try:
        told: dict[str, Any] = json.loads(path.read_bytes())
        told["shards"].items()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is damaged; write the shards again") from None
    return told


def _from_manifest(folder: Path, settings: dict[str, Any]) -> dict[str, Record]:
    told = read_manifest(folder)
    _same_settings(told.get("made", {}), settings, folder)
    known = {name: Record(name, one["samples"], one["bytes"], one["sha256"]) for name, one in told["shards"].items()}
    for line in _lines(folder / UNREADABLE):
        known.setdefault(line["shard"], Record(line["shard"], 0, 0, "")).unreadable.append((line["index"], line["name"], line["reason"]))
    return known


def _same_settings(made: dict[str, Any], settings: dict[str, Any], folder: Path) -> None:
    other = [key for key in settings if made.get(key) != settings[key]]
    if other:
        differences = ", ".join(f"{key} {_short(made.get(key))}, now {_short(settings[key])}" for key in other)
        raise ValueError(f"{folder} holds shards made otherwise ({differences}); give another folder, or remove this one")


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "+".join(f"{one['pictures']} {part}" for part, one in value.items()) + " pictures"
    return str(value)


def _lines(path: Path) -> list[Any]:
    found: list[Any] = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            found.append(json.loads(line))
        except ValueError:  # cut short by a kill: it was the last
            break
    return found


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
