"""One shard from its samples: a tar whose bytes depend on nothing but these, written beside its name and renamed when whole."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from data_prep.pixels import encoded
from data_prep.shard_plan import Shard, indices
from data_prep.shrinking import encode, prepared
from mae_vlm.data.sources.base import Source
from mae_vlm.data.sources.parts.sample_json import to_json
from mae_vlm.data.sources.parts.semantic_png import to_png
from mae_vlm.types import Sample

_LETTERS = 60  # of the original name, kept in a member's


@dataclass
class Record:
    """A shard that is written: its pictures, its size, its sha256, and (index, name, reason) of pictures that could not be read."""

    name: str
    samples: int
    bytes: int
    sha256: str
    unreadable: list[tuple[int, str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class ShardWriter:
    """``writer(shard)`` writes one shard into ``folder``, or keeps the one that is there and is as ``known`` says; picklable."""

    parts: dict[str, Source]
    folder: Path
    side: int | None
    quality: int
    shuffle: int | None
    value_range: tuple[float, float] | None = None
    known: dict[str, Record] = field(default_factory=dict)

    def __call__(self, shard: Shard) -> tuple[Record, bool]:
        """The record, and whether the shard was there already."""
        known = self.known.get(shard.name)
        path = self.folder / shard.name
        if known and (not known.samples or (path.is_file() and file_sha256(path) == known.sha256)):
            return known, True
        return self._write(shard, path), False

    def members(self, shard: Shard) -> Iterator[list[tuple[str, bytes]] | tuple[int, str, str]]:
        """For each picture the members of its sample, or why it has none."""
        source = self.parts[shard.part]
        for position, index in enumerate(indices(shard.start, shard.stop, len(source), self.shuffle), shard.start):
            try:
                yield self._sample_members(source[index], position)
            except (ValueError, OSError) as error:
                yield index, source.name(index), str(error)

    def _write(self, shard: Shard, path: Path) -> Record:
        partial = path.with_name(f"{path.name}.{os.getpid()}.part")
        record = Record(shard.name, 0, 0, "")
        with partial.open("wb") as file:
            hashing = _Hashing(file)
            with tarfile.open(fileobj=hashing, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for found in self.members(shard):
                    if isinstance(found, tuple):
                        record.unreadable.append(found)
                        continue
                    record.samples += 1
                    for name, data in found:
                        _add(tar, name, data)
            file.flush()
            os.fsync(file.fileno())
        record.bytes, record.sha256 = hashing.written, hashing.digest.hexdigest()
        if record.samples:
            partial.replace(path)
        else:
            partial.unlink()
        return record

    def _sample_members(self, sample: Sample, position: int) -> list[tuple[str, bytes]]:
        ready, data, suffix = prepared(sample, self.side, self.quality, self.value_range)
        if data is None:
            data, suffix = (
                encode(sample.image, self.quality, lossless=True) if isinstance(sample.image, Tensor) else (encoded(sample), suffix)
            )
        stem = f"{position:08d}_{_clean(sample.id)}"
        members = [(stem + suffix, data)]
        if ready.label is not None:
            members.append((f"{stem}.cls", str(ready.label).encode()))
        known: dict[str, Any] = to_json(ready)
        if set(known) - {"mae_vlm", "label"}:
            members.append((f"{stem}.json", json.dumps(known, ensure_ascii=False).encode("utf-8", "backslashreplace")))
        if ready.semantic is not None:
            semantic_HW = ready.semantic if isinstance(ready.semantic, Tensor) else ready.semantic.decode()
            members.append((f"{stem}.semantic.png", to_png(semantic_HW)))
        return members


class _Hashing(io.RawIOBase):
    """A file that is written from beginning to end, and its sha256."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.written = file, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.written

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.written += len(data)
        return self.file.write(data)


def file_sha256(path: Path) -> str:
    """Of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # owner, group and time stay 0
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _clean(name: str) -> str:
    """The end of a name, without its suffix, in letters that every tar, shell and WebDataset reader takes; never a dot."""
    stem = re.sub(r"\.[A-Za-z0-9]{1,5}$", "", name)
    return re.sub(r"[^A-Za-z0-9_-]+", "_", stem)[-_LETTERS:].strip("_") or "picture"


@dataclass(frozen=True)
class Checksum:
    """``checksum(name)`` is the sha256 of that shard of ``folder``, "" where it is missing; picklable."""

    folder: Path

    def __call__(self, name: str) -> str:
        path = self.folder / name
        return file_sha256(path) if path.is_file() else ""
