"""Parquet tables of pictures, as Hugging Face ``datasets`` writes them."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mae_vlm.data.remote import RemoteFile
from mae_vlm.data.sources.base import Columns, Format, Place, Source
from mae_vlm.data.sources.parts.features import class_names, features, named
from mae_vlm.data.sources.parts.label_values import (
    LabelValues,
    as_classes,
    cells_of,
    codes_of,
    is_class,
    is_list,
    kind_of,
    numbers_of,
    tell_whole,
)
from mae_vlm.data.sources.parts.short_names import short_names
from mae_vlm.data.sources.parts.split_column import by_part, split_codes
from mae_vlm.data.sources.parts.word_columns import find_words, words_into
from mae_vlm.types import Sample

WHOLE_BYTES = 1 << 30  # tables up to this size stay in memory once read; of larger ones a few row groups
_CACHED_GROUPS = 8
_LABEL_NAMES = ("label", "labels", "fine_label", "class", "target", "y")


class Parquet(Source):
    """All rows of one or more parquet files, local or remote, read by row groups when first asked for.

    The picture column is a struct {bytes, path} or binary; without ``columns.image`` it is found by type. Labels are the integers
    of ``columns.label`` (found by its ClassLabel feature or its usual names), named by the ``huggingface`` metadata. A label column of
    lists of names or integers holds several classes for each picture (null: nothing is known); one of floats, or of lists with as many
    numbers in every row, numbers to learn, and so does one of integers with ``columns.label_kind`` number. Such columns are read
    whole when a table is opened. Captions, questions and answers are strings or lists of them, found by their usual names. A sample is
    named by its struct path where all have one of their own, else by ``file:row``.
    The row groups of remote tables, and of tables too large for memory, are blocks, best read in their order.

    Raises:
        ValueError: a file is not parquet, a column is unknown, or no column can hold pictures.
    """

    def __init__(self, files: Sequence[str | Path | RemoteFile], columns: Columns | None = None, classes: list[str] | None = None) -> None:
        columns = columns or Columns()
        self.files = [file if isinstance(file, RemoteFile) else Path(file) for file in files]
        metadata = [_metadata(file) for file in self.files]
        schema = _schema(self.files[0])
        self.image_column = _image_column(schema, columns.image, self.files[0])
        self.label_column, self.classes = _label_column(schema, columns, self.files[0])
        self.words = find_words(schema, columns, str(self.files[0]))
        groups = [(number, group, meta.row_group(group)) for number, meta in enumerate(metadata) for group in range(meta.num_row_groups)]
        self._groups = [(number, group) for number, group, _ in groups]
        self._starts: list[int] = [0, *accumulate(meta.num_rows for _, _, meta in groups)]
        self._file_starts: list[int] = [0, *accumulate(meta.num_rows for meta in metadata)]
        large = sum(meta.total_byte_size for _, _, meta in groups) > WHOLE_BYTES
        self.prefers_blocks = large or any(isinstance(file, RemoteFile) for file in self.files)
        self.block_ends = np.unique(self._starts[1:]).astype(np.int64) if self.prefers_blocks else None
        self._limit = _CACHED_GROUPS if large else len(groups)
        self._short = short_names([str(file) for file in self.files])
        self._paths = self._read_paths()
        self._cache: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._said: tuple[int, dict[str, Any]] = (-1, {})  # the words of the row group that was last asked for these alone
        self.strange = np.empty(0, np.int64)  # rows with a class that the other part has not, which is left out
        self.values = self._read_values(schema, columns.label_kind, classes or self.classes)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": OrderedDict(), "_said": (-1, {})}

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Sample:
        columns, row = self._row(index)
        data = columns["bytes"][row].as_py()
        name = self.name(index)
        if data is None:
            raise ValueError(f"{name}: column {self.image_column} holds no bytes; write the pictures into the table, not only their paths")
        label = None if "label" not in columns else columns["label"][row].as_py()
        sample = Sample(name, data, None if label is None or label < 0 else int(label))
        sample.values = None if self.values is None else self.values.of(index)
        return self._into(sample, columns["words"], row)

    def worded(self, index: int) -> Sample:
        name, number = self.name(index), bisect_right(self._starts, index) - 1
        if self._said[0] != number:
            self._said = (number, self._columns(*self._groups[number], self.words.all))
        return self._into(Sample(name, b""), self._said[1], index - self._starts[number])

    def _into(self, sample: Sample, words: dict[str, Any], row: int) -> Sample:
        return words_into(sample, {key: words[key][row].as_py() for key in self.words.all}, self.words)

    def name(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        if self._paths is not None:
            return str(self._paths[index].as_py())
        file = bisect_right(self._file_starts, index) - 1
        return f"{self._short[file]}:{index - self._file_starts[file]}"

    def names(self) -> Any:
        if self._paths is not None:
            return self._paths.cast(pa.large_binary())
        empty = pa.scalar("", pa.large_string())
        parts = []
        for name, (begin, end) in zip(self._short, pairwise(self._file_starts), strict=True):
            rows = pa.array(np.arange(end - begin)).cast(pa.large_string())
            parts.append(pc.binary_join_element_wise(pa.scalar(f"{name}:", pa.large_string()), rows, empty))
        return pa.concat_arrays(parts).cast(pa.large_binary())

    def read_column(self, name: str) -> Any:
        """One column of all files as one Arrow array of strings."""
        _require(_schema(self.files[0]), name, "split_column", self.files[0])
        return self._whole(name).cast(pa.large_string()).combine_chunks()

    def _whole(self, name: str) -> Any:
        parts = []
        for file in self.files:
            with _opened(file) as opened:
                parts += opened.read(columns=[name], use_threads=False)[name].chunks
        return pa.chunked_array(parts)

    def _read_values(self, schema: Any, wanted: str, classes: list[str] | None) -> LabelValues | None:
        """Several classes or numbers of all rows, where the label column holds such; its single labels are then no labels."""
        if self.label_column is None or not len(self):
            return None
        column, where = schema.field(self.label_column), f"data.label_column {self.label_column} of {self.files[0]}"
        kind = kind_of(pa.chunked_array([], column.type), wanted)
        if kind == "class":
            if pa.types.is_floating(column.type):
                as_classes(self._whole(self.label_column), where)
            return None
        cells = cells_of(self._whole(self.label_column), where)
        self.label_column, self.classes = None, None
        if kind == "number":
            numbers_RV = numbers_of(cells, where)
            tell_whole(numbers_RV, where, wanted)
            self.numbers = numbers_RV.shape[1]
            return LabelValues(numbers_RV=numbers_RV)
        names = class_names(schema, column.name)
        if names:
            cells = named(cells, names)
        codes, self.classes, self.strange = codes_of(cells, classes or names)
        self.several = True
        return LabelValues(codes, len(self.classes))

    def _read_paths(self) -> Any:
        """The column ``image.path`` as one Arrow array of strings; None where it cannot name the samples: absent, with gaps or repeats."""
        leaf = f"{self.image_column}.path"
        parts: list[Any] = []
        for file in self.files:
            if isinstance(file, RemoteFile):  # a read for each row group, of many tables perhaps
                return None
            with _opened(file) as opened:
                if leaf not in [opened.schema.column(i).path for i in range(len(opened.schema))]:
                    return None
                column = opened.read(columns=[leaf], use_threads=False)[self.image_column]
                parts += [chunk.field("path").cast(pa.large_string()) for chunk in column.chunks]
        paths = pa.chunked_array(parts, pa.large_string()).combine_chunks()
        empty = paths.null_count or pc.any(pc.equal(pc.binary_length(paths), 0)).as_py()
        return None if empty or pc.count_distinct(paths).as_py() < len(paths) else paths

    def _row(self, index: int) -> tuple[dict[str, Any], int]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = bisect_right(self._starts, index) - 1
        if number not in self._cache:
            self._cache[number] = self._read(*self._groups[number])
            if len(self._cache) > self._limit:
                self._cache.popitem(last=False)
        self._cache.move_to_end(number)
        return self._cache[number], index - self._starts[number]

    def _read(self, file: int, group: int) -> dict[str, Any]:
        wanted = [self.image_column] + ([self.label_column] if self.label_column else []) + self.words.all
        found = self._columns(file, group, wanted)
        columns = _image_columns(found[self.image_column])
        if self.label_column:
            columns["label"] = found[self.label_column]
        columns["words"] = {name: found[name] for name in self.words.all}
        return columns

    def _columns(self, file: int, group: int, names: list[str]) -> dict[str, Any]:
        with _opened(self.files[file]) as opened:
            table = opened.read_row_group(group, columns=names, use_threads=False)  # threads do not survive a fork
        return {name: table[name].combine_chunks() for name in names}


def _image_columns(image: Any) -> dict[str, Any]:
    if not pa.types.is_struct(image.type):
        return {"bytes": image}
    names = [image.type.field(i).name for i in range(image.type.num_fields)]
    return {name: image.field(name) for name in ("bytes", "path") if name in names}


def _opened(file: Path | RemoteFile) -> Any:
    return pq.ParquetFile(file.open() if isinstance(file, RemoteFile) else file, pre_buffer=False)


def _metadata(file: Path | RemoteFile) -> Any:
    try:
        with _opened(file) as opened:
            return opened.metadata
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"{file} is not a parquet file, or is damaged ({str(error).splitlines()[0]}); remove it or write it again"
        ) from None


def _schema(file: Path | RemoteFile) -> Any:
    with _opened(file) as opened:
        return opened.schema_arrow


def _holds_pictures(type: Any) -> bool:
    if pa.types.is_struct(type):
        return any(type.field(i).name == "bytes" for i in range(type.num_fields))
    return bool(pa.types.is_binary(type) or pa.types.is_large_binary(type))


def _image_column(schema: Any, wanted: str | None, file: Path | RemoteFile) -> str:
    if wanted is not None:
        _require(schema, wanted, "image_column", file)
        if not _holds_pictures(schema.field(wanted).type):
            raise ValueError(
                f"data.image_column {wanted} of {file} is {schema.field(wanted).type}, not encoded pictures (binary, or a struct)"
            )
        return wanted
    candidates = [name for name in schema.names if _holds_pictures(schema.field(name).type)]
    if not candidates:
        raise ValueError(
            f"no column of {file} holds encoded pictures; its columns are {', '.join(schema.names)}; name one by data.image_column"
        )
    described = features(schema)
    images = [name for name in candidates if described.get(name, {}).get("_type") == "Image"]
    return str((images or [name for name in candidates if name in ("image", "img")] or candidates)[0])


def _label_column(schema: Any, columns: Columns, file: Path | RemoteFile) -> tuple[str | None, list[str] | None]:
    described, wanted = features(schema), columns.label
    labelled = [name for name, feature in described.items() if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"]
    usual = [name for name in _LABEL_NAMES if name in schema.names and _is_label(schema.field(name).type)]
    if wanted is not None:
        _require(schema, wanted, "label_column", file)
        kind = schema.field(wanted).type
        several = pa.types.is_floating(kind) or kind_of(pa.chunked_array([], kind), columns.label_kind) in ("classes", "number")
        if not pa.types.is_integer(kind) and not (several and not pa.types.is_string(kind)):
            raise ValueError(f"data.label_column {wanted} of {file} is {kind}; labels are integers, or lists of classes, or floats")
    column = wanted or next(iter(labelled + usual), None)
    names = described.get(column, {}).get("names") if column and isinstance(described.get(column), dict) else None
    return column, list(names) if names else None


def _is_label(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or (is_list(kind) and is_class(kind.value_type)))


def _require(schema: Any, column: str, option: str, file: Path | RemoteFile) -> None:
    if column not in schema.names:
        raise ValueError(f"data.{option} {column} is not a column of {file}; its columns are {', '.join(schema.names)}")


def _open(place: Place) -> dict[str, Source]:
    source = Parquet(place.files("parquet"), place.columns, place.classes)
    for row in source.strange.tolist():
        text = f"not one of the {len(source.classes or [])} classes of the other part; it is left out"
        place.problems.add("unknown label", place.path, source.name(row), text)
    if place.columns.split is None:
        return {"all": source}
    codes = split_codes(source.read_column(place.columns.split))
    for row in np.flatnonzero(codes < 0).tolist():
        place.problems.add("unknown split", place.path, source.name(row), "its split is none of train, val and test")
    return by_part(source, codes, place.path)


FORMAT = Format("parquet", lambda place: False, _open)
