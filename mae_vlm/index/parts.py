"""Where pictures lie, as it was computed: files of some thousand rows each, written whole, that a killed run leaves usable."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from mae_vlm import storage
from mae_vlm.data.split import name_hashes


class Known(NamedTuple):
    """What the parts hold: a number for each name, rising, and what the file was like (see :func:`mae_vlm.index.pictures.stamps`)."""

    names: NDArray[np.uint64]
    stamps: NDArray[np.int64]

    def has(self, names: NDArray[np.uint64], stamps: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these files are held as they are now."""
        if not len(self.names):
            return np.zeros(len(names), dtype=np.bool_)
        place = np.searchsorted(self.names, names).clip(max=len(self.names) - 1)
        return np.asarray((self.names[place] == names) & (self.stamps[place] == stamps))

    def checksum(self) -> str:
        """The same for the same files as they are."""
        return hashlib.sha256(self.names.tobytes() + self.stamps.tobytes()).hexdigest()


class Parts:
    """The files ``000000.parquet`` and on in ``folder``: columns name (bytes), stamp, vector (float16 of ``width`` numbers, as bytes)."""

    def __init__(self, folder: Path, width: int) -> None:
        self.folder, self.width = folder, width

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.glob("*.parquet"))

    def add(self, names: Sequence[bytes], stamps: Sequence[int], vectors: NDArray[np.float16]) -> None:
        """A new part, on the disk when this returns.

        Raises:
            OSError: no room.
        """
        number = int(self.files[-1].stem) + 1 if self.files else 0
        rows = pa.array([row.tobytes() for row in np.ascontiguousarray(vectors, np.float16)], pa.binary(2 * self.width))
        table = {"name": pa.array(names, pa.large_binary()), "stamp": pa.array(stamps, pa.int64()), "vector": rows}
        write_table(self.folder / f"{number:06d}.parquet", pa.table(table))

    def known(self) -> Known:
        """Names and stamps of all rows.

        Raises:
            ValueError: a part is damaged.
        """
        tables = [_read(file, ["name", "stamp"]) for file in self.files]
        names = np.concatenate([np.zeros(0, np.uint64), *(name_hashes(_column(table, "name")) for table in tables)])
        stamps = np.concatenate([np.zeros(0, np.int64), *(table["stamp"].to_numpy() for table in tables)])
        order = np.argsort(names, kind="stable")
        return Known(names[order], stamps[order])

    def keep(self, there: Known) -> int:
        """Throw away rows of files that are no longer there as they were; returns how many."""
        gone = 0
        for file in self.files:
            table = _read(file)
            keep = there.has(name_hashes(_column(table, "name")), table["stamp"].to_numpy())
            gone += int((~keep).sum())
            if not keep.any():
                file.unlink()
            elif not keep.all():
                write_table(file, table.filter(pa.array(keep)))
        return gone

    def names(self) -> Any:
        """All names in the order of :meth:`vectors`."""
        return pa.chunked_array([_column(_read(file, ["name"]), "name") for file in self.files], pa.large_binary())

    def vectors(self) -> Iterator[NDArray[np.float32]]:
        """All vectors, part by part, float32 ``[rows, width]``."""
        for file in self.files:
            held = _column(_read(file, ["vector"]), "vector")
            rows = np.frombuffer(b"".join(held.to_pylist()), np.float16).reshape(-1, self.width)
            yield rows.astype(np.float32)


def write_table(file: Path, table: Any) -> None:
    """An Arrow table as parquet, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    stream = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, stream)
    content = stream.getvalue().to_pybytes()
    storage.write_whole(file, lambda opened: opened.write(content))


def _column(table: Any, name: str) -> Any:
    return table[name].combine_chunks()


def _read(file: Path, columns: list[str] | None = None) -> Any:
    try:
        return pyarrow.parquet.read_table(file, columns=columns)
    except (OSError, pa.ArrowInvalid) as problem:
        raise ValueError(f"{file} is damaged ({' '.join(str(problem).split())}); delete it and index again: its pictures follow") from None
