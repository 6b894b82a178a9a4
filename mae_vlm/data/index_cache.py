"""Indexes that take long to build, kept as files: Arrow arrays behind a checksum, mapped into memory, never half written."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from tempfile import NamedTemporaryFile, gettempdir
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

_HEAD = 64  # bytes before the Arrow stream, so that its buffers stay aligned
_MAGIC = b"mae_vlm index 1 "
_PATIENCE = 2.0  # seconds of silence before a bar appears
_CHUNK = 1 << 24

T = TypeVar("T")


class Index(NamedTuple):
    """What an index file holds: ``about`` as JSON, and arrays of any lengths by name."""

    about: dict[str, Any]
    arrays: dict[str, Any]


def cache_root() -> Path:
    """``$MAE_VLM_CACHE``, or ``mae_vlm`` in ``$XDG_CACHE_HOME``, or ``~/.cache/mae_vlm``; not made."""
    own = os.environ.get("MAE_VLM_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mae_vlm"


def cached_file(kind: str, key: str) -> Path:
    """Where the user's cache keeps the index of ``key`` (a real path or an address)."""
    return cache_root() / kind / blake2b(os.fsencode(key), digest_size=16).hexdigest()


def save(file: Path, index: Index) -> bool:
    """Writes the index in one step; False where the folder cannot be written to."""
    lists = {name: pa.LargeListArray.from_arrays(pa.array([0, len(array)], pa.int64()), array) for name, array in index.arrays.items()}
    batch = pa.RecordBatch.from_pydict(lists).replace_schema_metadata({"about": json.dumps(index.about)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    body = sink.getvalue()
    head = _MAGIC + f"{zlib.crc32(body):08x} {body.size}".encode()
    return write_whole(file, head.ljust(_HEAD - 1) + b"\n", body)


def load(file: Path) -> Index | None:
    """The index, its arrays mapped from the file; None where there is none, or it is damaged or of another version."""
    try:
        with file.open("rb") as opened:
            magic, crc, size = opened.read(_HEAD).rsplit(None, 2)
            found = 0
            while chunk := opened.read(_CHUNK):
                found = zlib.crc32(chunk, found)
        buffer = pa.memory_map(os.fspath(file)).read_buffer().slice(_HEAD)
        if magic != _MAGIC.rstrip() or int(crc, 16) != found or int(size) != buffer.size:
            return None
        batch = pa.ipc.open_stream(buffer).read_next_batch()
        batch.validate(full=True)  # arrays whose offsets lie would be read past their end
        about = json.loads(batch.schema.metadata[b"about"])
        return Index(about, {name: batch.column(name).values for name in batch.schema.names})
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException, StopIteration):
        return None


def write_whole(file: Path, *parts: Any) -> bool:
    """Writes a file so that other processes see all of it or nothing; False where it cannot be written."""
    temporary = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=file.parent, prefix=".writing-", delete=False) as opened:
            temporary = opened.name
            for part in parts:
                opened.write(part)
        os.chmod(temporary, 0o644)  # noqa: PTH101 (what a temporary file gets is for its owner alone)
        os.replace(temporary, file)  # noqa: PTH105
        return True
    except OSError:
        if temporary:
            with suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108
        return False


def save_in_first(files: Iterable[Path], index: Index, what: str) -> Path | None:
    """The first of ``files`` that could be written; a warning where none could."""
    for file in files:
        if save(file, index):
            return file
    warnings.warn(
        f"the index of {what} cannot be kept and is built at every start; set MAE_VLM_CACHE to a folder that can be written to",
        RuntimeWarning,
        stacklevel=3,
    )
    return None


@contextmanager
def one_at_a_time(what: str) -> Iterator[None]:
    """Of the processes of this machine that want to build the same index, one does while the others wait and then find it."""
    name = blake2b(f"{os.getuid()} {what}".encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    file = Path(gettempdir()) / f"mae_vlm-{name}.lock"
    try:
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:  # nowhere to lock: each builds, and writes the same
        yield
        return
    try:
        with suppress(OSError):  # some file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        file.unlink(missing_ok=True)  # who waits for it holds it open; who comes now finds the index
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)  # a process forked in between holds the handle too: closing is not enough
        os.close(handle)


def patiently(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """The items, with a bar on stderr once it takes more than two seconds."""
    start = time.monotonic()
    bar: Progress | None = None
    try:
        for done, item in enumerate(items):
            if bar is None and time.monotonic() - start > _PATIENCE:
                columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
                bar = Progress(*columns, console=Console(file=sys.stderr))
                bar.start()
                task = bar.add_task(what, total=total)
            if bar is not None:
                bar.update(task, completed=done)
            yield item
    finally:
        if bar is not None:
            bar.stop()
