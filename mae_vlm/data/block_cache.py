"""Blocks of remote files kept on a local disk, shared by all processes, the least recently used removed first."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from pathlib import Path

from mae_vlm.data.index_cache import cache_root, one_at_a_time, write_whole

BLOCK_BYTES = 8 << 20
_USUAL_GB = 20.0
_SWEEP_BYTES = 64 << 20  # written by this process between two looks at the size of the cache
_KEPT = 0.9  # of the limit, after a sweep

_written = {"bytes": _SWEEP_BYTES}  # the first block of a process looks


def limit_bytes() -> int:
    """What the cache may hold: ``$MAE_VLM_CACHE_GB`` gigabytes, 20 without it.

    Raises:
        ValueError: it is no positive number.
    """
    told = os.environ.get("MAE_VLM_CACHE_GB", "")
    try:
        gigabytes = float(told) if told else _USUAL_GB
    except ValueError:
        gigabytes = 0.0
    if not 0 < gigabytes < 1e9:
        raise ValueError(f"MAE_VLM_CACHE_GB {told} must be a positive number of gigabytes, as {_USUAL_GB:g}")
    return int(gigabytes * 1e9)


def read_range(key: str, length: int, size: int, offset: int, fetch: Callable[[int, int], bytes]) -> bytes:
    """``size`` bytes at ``offset`` of a file of ``length`` bytes, fewer at its end; what is not on the local disk is fetched by blocks.

    ``key`` stands for the file and its version; ``fetch(start, stop)`` gives exactly those bytes of it.
    """
    stop = min(offset + size, length)
    parts = []
    while offset < stop:
        number, inner = divmod(offset, BLOCK_BYTES)
        start = number * BLOCK_BYTES
        end = min(start + BLOCK_BYTES, length)
        parts.append(_part(_file(key, number), end - start, slice(inner, min(stop, end) - start), partial(fetch, start, end)))
        offset = end
    return b"".join(parts)


def _file(key: str, number: int) -> Path:
    return cache_root() / "blocks" / blake2b(key.encode(), digest_size=16).hexdigest() / str(number)


def _part(file: Path, length: int, wanted: slice, fetch: Callable[[], bytes]) -> bytes:
    """The ``wanted`` bytes of a block of ``length``, from ``file`` or else fetched and kept there."""
    found = _kept(file, length, wanted)
    if found is not None:
        return found
    with one_at_a_time(f"block {file}"):  # workers that read one shard together fetch its blocks once
        found = _kept(file, length, wanted)
        if found is not None:
            return found
        data = fetch()
        if not write_whole(file, data):
            warnings.warn(f"{file.parent} cannot be written to: remote data is fetched again and again", RuntimeWarning, stacklevel=4)
            return data[wanted]
    _written["bytes"] += len(data)
    if _written["bytes"] >= max(_SWEEP_BYTES, limit_bytes() >> 10):
        _written["bytes"] = 0
        sweep(file.parents[1], limit_bytes())
    return data[wanted]


def _kept(file: Path, length: int, wanted: slice) -> bytes | None:
    try:
        handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        if os.fstat(handle).st_size != length:  # cut by a crash of the machine
            return None
        with suppress(OSError):  # another user's block
            os.utime(handle)
        return os.pread(handle, wanted.stop - wanted.start, wanted.start)
    finally:
        os.close(handle)


def sweep(root: Path, limit: int) -> None:
    """Removes the blocks that were not read for longest until ``root`` holds at most 90 % of ``limit`` bytes, if it holds more."""
    blocks = sorted(_blocks(root))
    held = sum(size for _, size, _ in blocks)
    if held <= limit:
        return
    for _, size, path in blocks:
        if held <= _KEPT * limit:
            return
        with suppress(OSError):  # another process was faster
            os.unlink(path)  # noqa: PTH108
        held -= size


def _blocks(root: Path) -> Iterator[tuple[int, int, str]]:
    """(last use in ns, bytes, path) of each block."""
    with os.scandir(root) as folders:
        for folder in folders:
            with suppress(OSError), os.scandir(folder.path) as blocks:
                for block in blocks:
                    with suppress(FileNotFoundError):
                        status = block.stat()
                        yield status.st_mtime_ns, status.st_size, block.path
