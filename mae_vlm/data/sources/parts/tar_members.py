"""The pictures of one tar shard and what lies beside each: names, byte offsets and class numbers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mae_vlm.data.remote import RemoteFile
from mae_vlm.data.sources.parts.files import is_picture
from mae_vlm.data.sources.parts.tar_headers import Member, Read, members

ANNOTATIONS = {".json": "json", ".txt": "text", ".semantic.png": "semantic"}  # by what follows the stem
COLUMNS = ("offset", "size", "label", *(f"{kind}_{what}" for kind in ANNOTATIONS.values() for what in ("offset", "size")))
_MOST_ANNOTATION = 64 << 20  # bytes
_MOST_DIGITS = 9


@dataclass(frozen=True)
class LocalFile:
    """A shard on a disk, as it was when it was looked at."""

    path: Path
    size: int
    stamp: str

    @staticmethod
    def at(path: Path) -> LocalFile:
        status = path.stat()
        return LocalFile(path, status.st_size, str(status.st_mtime_ns))

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def folder(self) -> str:
        return os.fspath(self.path.parent)

    def __str__(self) -> str:
        return str(self.path)


Shard = LocalFile | RemoteFile


class Members(NamedTuple):
    """Pictures of shards, in their order.

    Attributes:
        names: large_binary ``[pictures]``, within the shard.
        columns: int64 ``[pictures]`` by name: ``offset`` and ``size`` of the picture, ``label`` (-1: none), and ``offset`` and ``size``
            (0: none) of each kind of annotation that any of them has, as ``json_offset``.
        counts: int64 ``[shards]``, pictures in each.
    """

    names: Any
    columns: dict[str, NDArray[np.int64]]
    counts: NDArray[np.int64]


def join(parts: Sequence[Members], counts: NDArray[np.int64] | None = None) -> Members:
    """The pictures of all parts, one part after the other; ``counts`` where the parts are not single shards."""
    counts = np.concatenate([part.counts for part in parts]) if counts is None else counts
    if len(parts) == 1:
        return parts[0]._replace(counts=counts)
    used = [name for name in COLUMNS if any(name in part.columns for part in parts)]
    columns = {name: np.concatenate([part.columns.get(name, np.zeros(len(part.names), dtype=np.int64)) for part in parts]) for name in used}
    return Members(pa.concat_arrays([part.names for part in parts]), columns, counts)


def read_shard(shard: Shard) -> Members:
    """Walks over the headers of one shard.

    Raises:
        ValueError: as ``tar_headers.members``; or a class number is none, or an annotation longer than 64 MiB.
    """
    if isinstance(shard, RemoteFile):
        return _gather(members(shard.read, shard.size, str(shard)), shard.read, str(shard))
    with shard.path.open("rb", buffering=0) as opened:
        handle = opened.fileno()

        def read(size: int, offset: int) -> bytes:
            return os.pread(handle, size, offset)

        return _gather(members(read, shard.size, str(shard)), read, str(shard))


def _gather(found: Iterator[Member], read: Read, shard: str) -> Members:
    """The pictures among a shard's members, and beside each what shares its stem."""
    pictures: list[Member] = []
    labels: dict[str, int] = {}
    notes: dict[str, dict[str, Member]] = {kind: {} for kind in ANNOTATIONS.values()}
    for member in found:
        stem, ending = split_stem(member.name)
        if ending in ANNOTATIONS:
            if member.size > _MOST_ANNOTATION:
                raise ValueError(f"{shard}: member {member.name} has {member.size:,} bytes, more than {_MOST_ANNOTATION:,}; shorten it")
            notes[ANNOTATIONS[ending]][stem] = member
        elif ending == ".cls":
            labels[stem] = _label(read(min(member.size, 20), member.offset), member.name, shard)
        elif is_picture(member.name.rpartition("/")[2]):
            pictures.append(member)
    pictures = _without_masks(pictures)
    stems = [split_stem(picture.name)[0] for picture in pictures]
    columns = {
        "offset": [picture.offset for picture in pictures],
        "size": [picture.size for picture in pictures],
        "label": [labels.get(stem, -1) for stem in stems],
    }
    for kind, by_stem in notes.items():
        if by_stem:
            beside = [by_stem.get(stem, _NOTHING) for stem in stems]
            columns[f"{kind}_offset"] = [member.offset for member in beside]
            columns[f"{kind}_size"] = [member.size for member in beside]
    names = pa.array([picture.name.encode("utf-8", "surrogateescape") for picture in pictures], pa.large_binary())
    return Members(names, {name: np.array(column, dtype=np.int64) for name, column in columns.items()}, np.array([len(names)]))


_NOTHING = Member("", 0, 0)


def _without_masks(pictures: list[Member]) -> list[Member]:
    """Without those that have a word before their ending, as ``x.mask.png``, beside a plain ``x.jpg``: they are annotations of it."""
    split = [split_stem(picture.name) for picture in pictures]
    plain = {stem for stem, ending in split if ending.count(".") == 1}
    return [picture for picture, (stem, ending) in zip(pictures, split, strict=True) if ending.count(".") == 1 or stem not in plain]


def split_stem(name: str) -> tuple[str, str]:
    """What members of one sample share (the path up to the first dot of the file name), and the rest in small letters."""
    folder, slash, base = name.rpartition("/")
    stem, dot, ending = base.partition(".")
    return folder + slash + stem, (dot + ending).lower()


def _label(data: bytes, member: str, shard: str) -> int:
    text = data.decode("ascii", "replace").strip()
    if not text.isdecimal() or len(text) > _MOST_DIGITS:
        raise ValueError(f"{shard}: member {member} holds {text!r}, not a class number from 0 up; correct or remove it")
    return int(text)
