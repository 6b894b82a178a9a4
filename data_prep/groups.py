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

from mae_vlm.data.sources.parquet import Parquet
from mae_vlm.data.sources.parts.tables import SUFFIXES, read_table
from mae_vlm.data.split import name_hash


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
    if all(isinstance(part, Parquet) for part in parts):
        groups = [value for part in parts for file in part.files for value in _parquet_column(file, column)]
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


def _parquet_column(file: Path, column: str) -> list[Any]:
    names = pq.read_schema(file).names
    if column not in names:
        raise ValueError(f"--group-column {column} is not a column of {file}; its columns are {', '.join(names)}")
    values: list[Any] = pq.read_table(file, columns=[column])[column].to_pylist()
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
