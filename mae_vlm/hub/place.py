"""A folder, or a prefix on s3:// or any other of fsspec's stores, as a target."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mae_vlm import storage
from mae_vlm.hub.record import RECORD, Held, read

_EXTRAS = {"s3": "'mae_vlm[s3]'", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}


class Place:
    """``address`` as fsspec reads it; each file is whole or absent, and the record says which ones are meant, before the first is written.

    Raises:
        ValueError: no such kind of address, or its package is missing.
    """

    def __init__(self, address: str) -> None:
        import fsspec

        self.address = address.rstrip("/") or address
        protocol = address.partition("://")[0] if "://" in address else ""
        if protocol in ("hf", "http", "https"):
            raise ValueError(f"--to {address} is no place to write to; give a folder or s3://bucket/prefix, and a hub repository as --repo")
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.address)
        except ImportError:
            raise ValueError(f"--to {address} needs another package; pip install {_EXTRAS.get(protocol, protocol)}") from None
        except ValueError:
            raise ValueError(f"--to {address} is of no known kind; give a folder, s3:// or gs://") from None
        self._local = isinstance(self._fs.protocol, tuple | list) and "file" in self._fs.protocol

    def __str__(self) -> str:
        return self.address

    @property
    def described(self) -> str:
        """Where it is."""
        return f"{self.address} (made if it is not there)"

    def held(self) -> Held | None:
        """What lies there; None where nothing does.

        Raises:
            ValueError: a file has that name.
        """
        self._fs.invalidate_cache()
        if not self._fs.exists(self._root):
            return None
        if self._fs.isfile(self._root):
            raise ValueError(f"{self.address} is a file; give a folder")
        cut = len(self._root.rstrip("/")) + 1
        names = frozenset(name[cut:] for name in self._fs.find(self._root) if not name.endswith(".partial"))
        return Held(names, self._record() if RECORD in names else None) if names else None

    def put(self, files: Mapping[str, Path], gone: list[str], step: int) -> str:
        """Write ``files``, the record first, so that a push that was cut off is known as ours; then remove what is ``gone``."""
        for name in sorted(files, key=lambda name: name != RECORD):
            self._write(files[name], name)
        for name in gone:
            self._fs.rm_file(f"{self._root}/{name}")
        return self.address

    def _write(self, file: Path, name: str) -> None:
        if not self._local:
            self._fs.put_file(str(file), f"{self._root}/{name}")
            return
        with file.open("rb") as source:
            storage.write_whole(Path(self._root) / name, lambda target: shutil.copyfileobj(source, target, 1 << 22))

    def _record(self) -> frozenset[str] | None:
        content: Any = self._fs.cat_file(f"{self._root}/{RECORD}")
        try:
            return read(content)
        except ValueError:
            return None
