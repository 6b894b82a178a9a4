"""WebDataset tar shards with random access: pictures and annotations by their byte offset, on a disk or remote."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mae_vlm.data.remote import RemoteFile
from mae_vlm.data.sources.base import Format, Place, Source
from mae_vlm.data.sources.parts.sample_json import MARK, foreign_captions, from_json
from mae_vlm.data.sources.parts.semantic_png import SemanticPng
from mae_vlm.data.sources.parts.shard_classes import shard_classes
from mae_vlm.data.sources.parts.short_names import short_names
from mae_vlm.data.sources.parts.tar_index import find_members
from mae_vlm.data.sources.parts.tar_members import LocalFile
from mae_vlm.types import Sample

_OPEN = 64  # shards that one process holds open


class TarShards(Source):
    """The picture members of uncompressed tar files, in the order of the files and of their members.

    Members that share the path up to the first dot are one sample: ``x.jpg``, its class number ``x.cls``, captions ``x.txt`` (one per
    line), ``x.json`` (as ``sample_json``; of others, its captions) and semantic mask ``x.semantic.png``; any other picture with a
    word more (``x.mask.png``) is passed over where there is a plain ``x.jpg``. Class names stand in
    ``dataset.json`` or ``classes.txt`` beside the shards or one folder above. A sample is named ``shard.tar/member``, with the shard's
    folder where two have one name. Headers are read once (``tar_index``), annotations with their picture. Each process opens the shards
    it reads, when it reads them.

    Args:
        files: shards, local or remote.
        classes: label order of another part of the same collection.
        object_classes: likewise for objects.

    Raises:
        ValueError: a file is not an uncompressed tar, or is damaged; a member is a link, a pickle, absolute or climbs out by ``..``; there
            is no picture in any of them; or their class names are not those given.
    """

    def __init__(
        self, files: Sequence[str | Path | RemoteFile], classes: list[str] | None = None, object_classes: list[str] | None = None
    ) -> None:
        self.files = [file if isinstance(file, RemoteFile) else LocalFile.at(Path(file)) for file in files]
        self._short = short_names([str(file) for file in self.files])
        found = find_members(self.files)
        if not len(found.names):
            raise ValueError(f"no pictures in {self.files[0]}{' and the shards beside it' if len(self.files) > 1 else ''}; check data.path")
        self._names, self._columns = found.names, found.columns
        self._ends = np.cumsum(found.counts)
        self.block_ends = np.unique(self._ends[self._ends > 0]).astype(np.int64)
        self.prefers_blocks = any(isinstance(file, RemoteFile) for file in self.files)
        self.classes, self.object_classes = shard_classes(self.files[0], classes, object_classes)
        self._check_label(int(found.columns["label"].max()), str(self.files[0]))
        self._handles: dict[int, int] = {}
        self._owner = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": {}}

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return f"{self._short[self._shard(index)]}/{self._names[index].as_py().decode('utf-8', 'surrogateescape')}"

    def names(self) -> Any:
        shards = pa.array([os.fsencode(name) for name in self._short], pa.large_binary())
        of_each = shards.take(pa.array(np.repeat(np.arange(len(self.files)), np.diff(self._ends, prepend=0))))
        return pc.binary_join_element_wise(of_each, self._names, pa.scalar(b"/", pa.large_binary()))

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        label = int(self._columns["label"][index])
        sample = Sample(self.name(index), self._read(index, ""), None if label < 0 else label)
        self._add_notes(sample, index)
        if semantic := self._note(index, "semantic"):
            sample.semantic = SemanticPng(semantic, sample.id, sample.image)
        self._check_label(sample.label, sample.id)
        return sample

    def worded(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        sample = Sample(self.name(index), b"")
        self._add_notes(sample, index)
        return sample

    def _add_notes(self, sample: Sample, index: int) -> None:
        """What its members of text say."""
        if text := self._note(index, "text"):
            sample.captions = _lines(text, sample.id)
        if found := self._note(index, "json"):
            _add_json(sample, found)

    def _check_label(self, label: int | None, where: str) -> None:
        if label is not None and self.classes is not None and label >= len(self.classes):
            raise ValueError(f"{where}: class number {label} has no name, the {len(self.classes)} names go from 0; correct the names")

    def _note(self, index: int, kind: str) -> bytes:
        """The bytes of one kind of annotation, empty where there is none."""
        sizes = self._columns.get(f"{kind}_size")
        return self._read(index, f"{kind}_") if sizes is not None and sizes[index] else b""

    def _read(self, index: int, kind: str) -> bytes:
        offset, size = int(self._columns[f"{kind}offset"][index]), int(self._columns[f"{kind}size"][index])
        shard = self._shard(index)
        file = self.files[shard]
        data = file.read(size, offset) if isinstance(file, RemoteFile) else os.pread(self._handle(shard, file), size, offset)
        if len(data) != size:
            raise ValueError(f"{self.name(index)}: the shard ends after {len(data)} of {size} bytes; it was changed or cut short")
        return data

    def _shard(self, index: int) -> int:
        return int(np.searchsorted(self._ends, index, side="right"))

    def _handle(self, shard: int, file: LocalFile) -> int:
        if self._owner != os.getpid():  # after a fork: own handles, the parent's stay open there
            self._handles, self._owner = {}, os.getpid()
        if shard not in self._handles:
            if len(self._handles) >= _OPEN:
                os.close(self._handles.pop(next(iter(self._handles))))
            self._handles[shard] = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
        return self._handles[shard]


def _lines(text: bytes, name: str) -> tuple[str, ...]:
    try:
        return tuple(line.strip() for line in text.decode("utf-8-sig").splitlines() if line.strip())
    except UnicodeDecodeError:
        raise ValueError(f"{name}: its .txt is not UTF-8; write the shard again") from None


def _add_json(sample: Sample, data: bytes) -> None:
    """What ``<stem>.json`` says, over what is known already."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError(f"{sample.id}: its .json is no JSON; write the shard again") from None
    if isinstance(found, dict) and MARK in found:
        for field, value in from_json(found, sample.id, sample.image).items():
            setattr(sample, field, value)
    else:
        sample.captions += foreign_captions(found)


def _open(place: Place) -> dict[str, Source]:
    return {"all": TarShards(place.files("tar"), place.classes, place.object_classes)}


FORMAT = Format("tar", lambda place: False, _open)
