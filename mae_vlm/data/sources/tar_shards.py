"""WebDataset tar shards with random access: headers are read once, pictures by their byte offset."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from mae_vlm.data.sources.base import Format, Place, Source
from mae_vlm.data.sources.files import is_picture
from mae_vlm.types import Sample


class TarShards(Source):
    """The picture members of uncompressed tar files, in the order of the files and of their members.

    Members that share a stem are one sample: ``x.jpg`` with the class number in ``x.cls``, where there is one. A sample is named
    ``shard.tar/member``. Each process opens the shards it reads, when it reads them.

    Raises:
        ValueError: a file is not an uncompressed tar, holds no picture, or has a member that is a link, absolute or climbs out by ``..``.
    """

    def __init__(self, files: Sequence[str | Path]) -> None:
        self.files = [Path(file) for file in files]
        names: list[str] = []
        rows: list[tuple[int, int, int, int]] = []
        for number, file in enumerate(self.files):
            for name, offset, size, label in _pictures(file):
                names.append(name)
                rows.append((number, offset, size, label))
        if not rows:
            raise ValueError(f"no pictures in {self.files[0]}{' and the shards beside it' if len(self.files) > 1 else ''}; check data.path")
        self._names = pa.array(names, pa.large_string())
        self._rows = np.asarray(rows, dtype=np.int64)  # [samples, 4]: shard, byte offset, bytes, label or -1
        self._handles: dict[int, int] = {}
        self._owner = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": {}}

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, index: int) -> str:
        return f"{self.files[int(self._rows[index, 0])].name}/{self._names[index].as_py()}"

    def __getitem__(self, index: int) -> Sample:
        shard, offset, size, label = self._rows[index].tolist()
        data = os.pread(self._handle(shard), size, offset)
        if len(data) != size:
            raise ValueError(f"{self.name(index)}: the shard ends after {len(data)} of {size} bytes; it was changed or cut short")
        return Sample(self.name(index), data, None if label < 0 else label)

    def _handle(self, shard: int) -> int:
        if self._owner != os.getpid():  # after a fork: own handles, the parent's stay open there
            self._handles, self._owner = {}, os.getpid()
        if shard not in self._handles:
            if len(self._handles) >= 64:
                os.close(self._handles.pop(next(iter(self._handles))))
            self._handles[shard] = os.open(self.files[shard], os.O_RDONLY | os.O_CLOEXEC)
        return self._handles[shard]


def _pictures(file: Path) -> list[tuple[str, int, int, int]]:
    """(member name, byte offset, bytes, label or -1) of each picture of a shard."""
    found: list[tuple[str, int, int]] = []
    labels: dict[str, int] = {}
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                _refuse(member, file)
                if member.isfile() and is_picture(PurePosixPath(member.name).name):
                    found.append((member.name, member.offset_data, member.size))
                elif member.isfile() and member.name.endswith(".cls") and member.size <= 20:
                    labels[_stem(member.name)] = _label(tar, member, file)
    except tarfile.TarError as error:
        raise ValueError(f"{file} is not an uncompressed tar file, or is damaged ({error}); unpack it (gunzip) or write it again") from None
    return [(name, offset, size, labels.get(_stem(name), -1)) for name, offset, size in found]


def _stem(name: str) -> str:
    """What members of one sample share: the path up to the first dot of the file name."""
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.split('.', 1)[0]}"


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo, file: Path) -> int:
    opened = tar.extractfile(member)
    text = opened.read().decode("ascii", "replace").strip() if opened else ""
    if not text.isdecimal():
        raise ValueError(f"{file}: member {member.name} holds {text!r}, not a class number from 0 up; correct or remove it")
    return int(text)


def _refuse(member: tarfile.TarInfo, file: Path) -> None:
    path = PurePosixPath(member.name)
    if member.issym() or member.islnk():
        kind = "a link"
    elif path.is_absolute():
        kind = "an absolute path"
    elif ".." in path.parts:
        kind = "a path that climbs out by '..'"
    else:
        return
    raise ValueError(f"{file}: member {member.name} is {kind}, which is refused; write the shard again without it")


def _open(place: Place) -> dict[str, Source]:
    return {"all": TarShards(place.files("tar"))}


FORMAT = Format("tar", lambda place: False, _open)
