"""Where the pictures of tar shards and their annotations lie, by byte: read from the headers once, kept beside the shards."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mae_vlm.data.index_cache import Index, cached_file, load, one_at_a_time, patiently, save_in_first, write_whole
from mae_vlm.data.remote import RemoteFile, find_remote
from mae_vlm.data.sources.parts.tar_members import COLUMNS, LocalFile, Members, Shard, join, read_shard

INDEX_NAME = ".mae_vlm_index"
_FORMAT = 2  # of the index; 1 counted x.mask.png beside x.jpg as a picture
_WRITABLE = 0o222
_THREADS = 8  # headers lie apart: a disk or a server is asked for several at once


def find_members(shards: Sequence[Shard]) -> Members:
    """The pictures of all shards, from their indexes as far as they are good; new indexes are kept.

    Raises:
        ValueError: a shard is no tar file, damaged, or holds what is refused (see ``tar_headers``).
    """
    found = [_of_folder(folder, list(group)) for folder, group in groupby(shards, key=lambda shard: shard.folder)]
    return found[0] if len(found) == 1 else join(found)


class _Known:
    """An index file: of which shards, and where their rows are."""

    def __init__(self, index: Index) -> None:
        arrays = index.arrays
        names = [os.fsdecode(name) for name in arrays["shards"].to_pylist()]
        facts = zip(names, arrays["shard_sizes"].to_pylist(), arrays["shard_stamps"].to_pylist(), strict=True)
        self.facts = {name: (size, stamp.decode()) for name, size, stamp in facts}
        self.counts = arrays["shard_counts"].to_numpy()
        ends = np.cumsum(self.counts)
        self.rows = {name: (int(end - count), int(end)) for name, end, count in zip(names, ends, self.counts, strict=True)}
        self.names = arrays["name"]
        self.columns = {name: arrays[name].to_numpy() for name in COLUMNS if name in arrays}
        self._check(np.repeat(arrays["shard_sizes"].to_numpy(), self.counts))

    def _check(self, sizes: NDArray[np.int64]) -> None:
        """ValueError where a member would lie outside its shard: an index may come from elsewhere."""
        lengths = {len(self.names), len(sizes), *map(len, self.columns.values())}
        inside = all(
            ((self.columns[name] >= 0) & (self.columns[size] >= 0) & (self.columns[size] <= sizes - self.columns[name])).all()
            for name, size in ((name, name.replace("offset", "size")) for name in self.columns if name.endswith("offset"))
        )
        if len(lengths) > 1 or not inside or (self.counts < 0).any() or self.columns["label"].min(initial=0) < -1:
            raise ValueError("the index does not fit its shards")

    def holds(self, shard: Shard, stamped: bool = True) -> bool:
        size, stamp = self.facts.get(shard.name, (-1, ""))
        return size == shard.size and (stamp == shard.stamp or not stamped)

    def members(self, names: Sequence[str]) -> Members:
        """Rows of the shards named; without a copy where they lie together."""
        runs: list[tuple[int, int]] = []
        for start, stop in (self.rows[name] for name in names):
            if runs and runs[-1][1] == start:
                runs[-1] = (runs[-1][0], stop)
            else:
                runs.append((start, stop))
        counts = np.array([self.rows[name][1] - self.rows[name][0] for name in names], dtype=np.int64)
        return join([self._slice(start, stop) for start, stop in runs], counts)

    def _slice(self, start: int, stop: int) -> Members:
        part = {name: column[start:stop] for name, column in self.columns.items()}
        return Members(self.names[start:stop], part, np.array([stop - start]))


def _of_folder(folder: str, shards: list[Shard]) -> Members:
    names = [shard.name for shard in shards]
    known = _load(folder, shards)
    if known is None or not all(known.holds(shard) for shard in shards):
        with one_at_a_time(f"shards {folder}"):
            known = _load(folder, shards)
            if known is None or not all(known.holds(shard) for shard in shards):
                return _build(folder, shards, known)
    return known.members(names)


def _load(folder: str, shards: list[Shard]) -> _Known | None:
    """The index that is good for most of the shards: beside them, or in the user's cache."""
    found = [known for known in map(_read, _places(folder, shards[0])) if known is not None]
    known = max(found, key=lambda one: sum(map(one.holds, shards)), default=None)
    if isinstance(shards[0], LocalFile) or (known is not None and all(map(known.holds, shards))):
        return known
    return _fetch(folder, shards) or known


def _read(file: Path) -> _Known | None:
    index = load(file)
    try:
        return None if index is None or index.about.get("format") != _FORMAT else _Known(index)
    except (KeyError, ValueError, TypeError, AttributeError, pa.ArrowException):
        return None


def _places(folder: str, shard: Shard) -> list[Path]:
    if isinstance(shard, RemoteFile):
        return [cached_file("shards", folder)]
    return [Path(folder) / INDEX_NAME, cached_file("shards", os.path.realpath(folder))]


def _fetch(folder: str, shards: list[Shard]) -> _Known | None:
    """The index beside remote shards, once it is in the user's cache; times mean nothing there, so it is good for shards of its sizes."""
    beside = find_remote(f"{folder}/{INDEX_NAME}")
    if beside is None:
        return None
    copy = cached_file("shards", beside.url + beside.etag)
    if not copy.exists():
        write_whole(copy, beside.read(beside.size, 0))
    known = _read(copy)
    if known is None or not all(known.holds(shard, stamped=False) for shard in shards):
        return None
    stamps = {shard.name: (shard.size, shard.stamp) for shard in shards}
    known.facts.update(stamps)
    return known


def _build(folder: str, shards: list[Shard], known: _Known | None) -> Members:
    """Reads the headers of the shards that ``known`` does not hold, and keeps all that is known of the folder."""
    fresh = [shard for shard in shards if known is None or not known.holds(shard)]
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            read = list(patiently(pool.map(read_shard, fresh), f"indexing the shards of {folder}", len(fresh)))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    parts = {shard.name: (part, shard.size, shard.stamp) for shard, part in zip(fresh, read, strict=True)}
    if known is not None:
        gone = {name for name in known.rows if isinstance(shards[0], LocalFile) and not (Path(folder) / name).exists()}
        parts.update({name: (known.members([name]), *known.facts[name]) for name in known.rows if name not in parts and name not in gone})
    names = sorted(parts)
    whole = join([parts[name][0] for name in names])
    arrays = {"name": whole.names, **{name: pa.array(column) for name, column in whole.columns.items()}}
    arrays["shards"] = pa.array(list(map(os.fsencode, names)), pa.large_binary())
    arrays["shard_sizes"] = pa.array([parts[name][1] for name in names], pa.int64())
    arrays["shard_stamps"] = pa.array([parts[name][2].encode() for name in names], pa.large_binary())
    arrays["shard_counts"] = pa.array(whole.counts)
    index = Index({"format": _FORMAT}, arrays)
    places = _places(folder, shards[0])
    if places[0].name == INDEX_NAME and not Path(folder).stat().st_mode & _WRITABLE:
        places = places[1:]  # somebody has made it read-only, though a superuser may write
    kept = save_in_first(places, index, f"the shards of {folder}")
    now = (_read(kept) if kept else None) or _Known(index)  # from the file its arrays are mapped, which processes share
    return now.members([shard.name for shard in shards])
