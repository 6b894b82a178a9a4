"""What an index folder says of itself: who made it, from which pictures, and which files belong together.

INDEX/index.json          written last: an index without it is not finished
INDEX/model/              the towers that made it; search needs nothing else of the run
INDEX/parts/              vectors as they were computed
INDEX/vectors_N.faiss, names_N.parquet
INDEX/broken.csv          pictures that could not be read, where there are any
INDEX/lock                held by the process that writes here; it stays, and says nothing by being there
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mae_vlm import storage
from mae_vlm.index.lock import LOCK

FORMAT = 1
_MARK, _ORIGIN = "index.json", "origin.json"


@dataclass(frozen=True)
class Origin:
    """The run that an index was made by: its folder, the optimizer step of the checkpoint, and the checksum of its towers."""

    run: str
    step: int
    checksum: str

    def __str__(self) -> str:
        return f"{self.run} at step {self.step} (checksum {self.checksum[:12]})"


@dataclass(frozen=True)
class Stored:
    """A finished index.

    Attributes:
        root: the folder of the pictures; names are relative to it.
        pictures: in the index.
        width: numbers of a vector.
        kind, bits, found: see :mod:`mae_vlm.index.structure`.
        version: which of the numbered files are meant.
        content: checksum of the names and stamps of the files in it.
        mean, deviation: of each number, by which vectors were centred and scaled; empty where they were not.
    """

    root: str
    pictures: int
    width: int
    kind: str
    bits: str
    found: float
    version: int
    content: str
    mean: list[float] = field(default_factory=list)
    deviation: list[float] = field(default_factory=list)
    format: int = FORMAT

    def is_as(self, kind: str, bits: str) -> bool:
        """Whether it is built as these options want it."""
        return kind in ("auto", self.kind) and bits == self.bits


class Place:
    """An index folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model, self.parts = folder / "model", folder / "parts"

    def vectors(self, version: int) -> Path:
        return self.folder / f"vectors_{version}.faiss"

    def names(self, version: int) -> Path:
        return self.folder / f"names_{version}.parquet"

    def check_free(self) -> None:
        """See that an index may be made, or gone on with, here.

        Raises:
            ValueError: the folder holds something else.
        """
        others = self.folder.is_dir() and any(file.name != LOCK for file in self.folder.iterdir())
        if self.folder.is_file() or (others and self.origin() is None):
            raise ValueError(f"--out {self.folder} holds something else than an index; name a folder that is empty or not there yet")

    def origin(self) -> Origin | None:
        """Who made it; None where nobody has."""
        told = self._read(_ORIGIN)
        return None if told is None else Origin(**told)

    def begin(self, origin: Origin) -> None:
        self._write(_ORIGIN, asdict(origin))

    def stored(self) -> Stored | None:
        """What it holds; None before it is finished.

        Raises:
            ValueError: damaged, or of a newer format.
        """
        told = self._read(_MARK)
        if told is not None and int(told.get("format", 0)) > FORMAT:
            raise ValueError(f"{self.folder} has format {told['format']}, this version reads up to {FORMAT}; update mae_vlm")
        try:
            return None if told is None else Stored(**told)
        except TypeError as problem:
            raise ValueError(f"{self.folder / _MARK} is damaged ({problem}); delete it and index again: what is computed is kept") from None

    def finish(self, stored: Stored) -> None:
        """Let it be the index that is asked, and delete the files of the one before."""
        self._write(_MARK, asdict(stored))
        for file in [*self.folder.glob("vectors_*.faiss"), *self.folder.glob("names_*.parquet")]:
            if file not in (self.vectors(stored.version), self.names(stored.version)):
                file.unlink()

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            return dict(json.loads((self.folder / name).read_text()))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as problem:
            raise ValueError(f"{self.folder / name} is damaged ({problem}); delete it and index again: what is computed is kept") from None

    def _write(self, name: str, told: dict[str, Any]) -> None:
        content = json.dumps(told, indent=1).encode()
        storage.write_whole(self.folder / name, lambda file: file.write(content))
