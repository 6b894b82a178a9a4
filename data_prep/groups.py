"""Which group (patient, scene, site, video) each picture belongs to, and which part each group goes to."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mae_vlm.data.remote import RemoteFile
from mae_vlm.data.sources.base import Joined, Part, Source
from mae_vlm.data.sources.image_folder import ImageFolder
from mae_vlm.data.sources.parquet import Parquet
from mae_vlm.data.sources.parts.listed import Listed
from mae_vlm.data.sources.parts.tables import SUFFIXES, read_table
from mae_vlm.data.sources.tar_shards import TarShards
from mae_vlm.data.split import name_hash

_TO_READ = -2  # for a class number


def by_pattern(names: Sequence[str], pattern: re.Pattern[str]) -> tuple[list[str], int]:
    """(the group of each name, how many names the pattern does not match: each of these is a group of its own).

    Raises:
        ValueError: the pattern matches no name.
    """
    found = [pattern.search(name) for name in names]
    alone = sum(match is None or match[1] is None for match in found)
    if alone == len(names):
        raise ValueError(f"--group-pattern {pattern.pattern} matches none of {len(names):,} names, such as {names[0]}; correct the pattern")
    return [
        f"group {match[1]}" if match and match[1] is not None else f"name {name}" for match, name in zip(found, names, strict=True)
    ], alone


def by_column(column: str, parts: Sequence[Any], names: Sequence[str], where: Path, annotations: Sequence[str]) -> list[str]:
    """The group of each picture out of a column of the parquet files, or of the one table in the place that has it.

    Raises:
        ValueError: no table has the column, or it tells no group for some picture.
    """
    own = [_own_column(part, column) for part in parts]
    if all(values is not None for values in own):
        groups = [value for values in own for value in values or ()]
    else:
        groups = _table_column(column, names, where, annotations)
    without = [name for name, group in zip(names, groups, strict=True) if group in (None, "")]
    if without:
        raise ValueError(f"--group-column {column} tells no group for {len(without):,} of {len(names):,} pictures, the first: {without[0]}")
    return [f"group {group}" for group in groups]


def choose(groups: Sequence[str], fractions: Sequence[float], seed: int) -> NDArray[np.int64]:
    """The part of each picture: 0 for train, i + 1 for ``fractions[i]``; all pictures of a group go to the same.

    A group's place is told by a hash of its name and the seed alone, so that it stays as pictures and groups are added. No part is empty.

    Raises:
        ValueError: there are fewer groups than parts.
    """
    kinds, numbers = np.unique(np.asarray(groups, dtype=object), return_inverse=True)
    if len(kinds) <= len(fractions):
        raise ValueError(f"{len(kinds)} groups cannot be split into {len(fractions) + 1} parts; use another group, or fewer parts")
    hashes = np.array([name_hash(f"{seed}:{kind}") for kind in kinds.tolist()], dtype=np.uint64).astype(np.float64) / 2.0**64
    edges = np.cumsum(fractions)
    parts = np.searchsorted(edges, hashes, side="right") + 1
    parts[hashes >= edges[-1]] = 0
    for part in (*range(1, len(fractions) + 1), 0):
        if not (parts == part).any():  # the group nearest to where it should have been, of a part that has more than one
            target = 1.0 if part == 0 else edges[part - 1] / 2
            sizes = np.bincount(parts, minlength=len(fractions) + 1)
            free = np.flatnonzero(sizes[parts] > 1)
            parts[free[np.abs(hashes[free] - target).argmin()]] = part
    result: NDArray[np.int64] = parts[numbers].astype(np.int64)
    return result


def labels_of(source: Source) -> list[str | None]:
    """The class name of each picture, "" for none, None where only the picture's sample tells it and cannot be read.

    Folders, lists, parquet and shards tell the labels by themselves: no picture is read.
    """
    return [_read_label(source, index) if label is None else label for index, label in enumerate(_told(source).tolist())]


def _told(source: Source) -> NDArray[np.object_]:
    """Class names as far as they are known without reading a sample, None for the others."""
    if source.classes is None:
        return np.full(len(source), "", object)
    if isinstance(source, Joined):
        return np.concatenate([_told(part) for part in source.parts])
    if isinstance(source, Part):
        return _told(source.whole)[source.indices]
    if isinstance(source, ImageFolder):  # its folders are told also where they are no class of another part
        return np.array([source.name(index).partition("/")[0] for index in range(len(source))], object)
    numbers = _numbers(source)
    if numbers is None:
        return np.full(len(source), None, object)
    known = (numbers >= _TO_READ) & (numbers < len(source.classes))
    return np.array([*source.classes, None, ""], object)[np.where(known, numbers, -1)]


def _numbers(source: Source) -> NDArray[Any] | None:
    """The class number of each picture, -1 for none, ``_TO_READ`` where its sample must be read; None where all must."""
    if isinstance(source, Listed):
        return source._labels
    if isinstance(source, TarShards):
        label, note = source._columns["label"], source._columns.get("json_size")
        return label if note is None else np.where((label < 0) & (note > 0), _TO_READ, label)
    if isinstance(source, Parquet) and source.label_column:
        numbers: NDArray[np.int64] = pc.fill_null(source.read_column(source.label_column).cast(pa.int64()), -1).to_numpy()
        return numbers.clip(min=-1)
    return None


def _read_label(source: Source, index: int) -> str | None:
    try:
        label = source[index].label
    except (ValueError, OSError):
        return None
    return "" if label is None or source.classes is None else source.classes[label]


def _own_column(source: Source, column: str) -> list[Any] | None:
    """A column of the parquet files that a source is made of; None where it is made of something else."""
    if isinstance(source, Parquet):
        return [value for file in source.files for value in _parquet_column(file, column)]
    if isinstance(source, Part):
        values = _own_column(source.whole, column)
        return values and [values[index] for index in source.indices.tolist()]
    if isinstance(source, Joined):
        own = [_own_column(part, column) for part in source.parts]
        return None if any(values is None for values in own) else [value for values in own for value in values or ()]
    return None


def _parquet_column(file: Path | RemoteFile, column: str) -> list[Any]:
    with pq.ParquetFile(file.open() if isinstance(file, RemoteFile) else file, pre_buffer=False) as opened:
        names = opened.schema_arrow.names
        if column not in names:
            raise ValueError(f"--group-column {column} is not a column of {file}; its columns are {', '.join(names)}")
        values: list[Any] = opened.read(columns=[column], use_threads=False)[column].to_pylist()
    return values


def _table_column(column: str, names: Sequence[str], where: Path, annotations: Sequence[str]) -> list[Any]:
    root = where if where.is_dir() else where.parent
    named = [root / name for name in annotations] or [where] * where.is_file()
    tables = [(file, read_table(file)) for file in named] if named else list(_tables(root))
    fitting = [(file, table) for file, table in tables if column in table.column_names]
    if not fitting:
        known = "; ".join(f"{file.name} has {', '.join(table.column_names)}" for file, table in tables) or "there is no table"
        raise ValueError(f"--group-column {column} is in no table of {where} ({known}); name the table by --annotations")
    wanted = pa.array(names, pa.large_string())
    found: list[Any] = [None] * len(names)
    for _, table in fitting:
        rows = _rows_of(wanted, table)
        values = table[column].cast(pa.large_string()).combine_chunks().take(rows).to_pylist()
        found = [value if known is None else known for known, value in zip(found, values, strict=True)]
    return found


def _tables(folder: Path) -> Iterator[tuple[Path, Any]]:
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.suffix.lower() in SUFFIXES:
            try:
                yield file, read_table(file)
            except ValueError:  # another kind of JSON or text
                continue


def _rows_of(wanted: Any, table: Any) -> Any:
    """For each name the first row that names it, in the column that names most; by whole path, else by file name."""
    best = pa.nulls(len(wanted), pa.int32())
    last = pa.array([os.path.basename(name) for name in wanted.to_pylist()], pa.large_string())  # noqa: PTH119
    for name in table.column_names:
        if not (pa.types.is_string(table.schema.field(name).type) or pa.types.is_large_string(table.schema.field(name).type)):
            continue
        cells = table[name].cast(pa.large_string()).combine_chunks()
        for names in (wanted, last):
            rows = pc.index_in(names, cells)
            best = rows if rows.null_count < best.null_count else best
    return best
