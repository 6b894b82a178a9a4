"""Parquet tables of pictures, as Hugging Face ``datasets`` writes them."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mae_vlm.data.sources.base import Format, Place, Source
from mae_vlm.types import Sample

WHOLE_BYTES = 1 << 30  # tables up to this size stay in memory once read; of larger ones a few row groups
_CACHED_GROUPS = 8
_LABEL_NAMES = ("label", "labels", "fine_label", "class", "target", "y")


class Parquet(Source):
    """All rows of one or more parquet files, read by row groups when first asked for.

    The picture column is a struct {bytes, path} or binary; without ``image_column`` it is found by type. Labels are the integers
    of ``label_column`` (found by its ClassLabel feature or its usual names), named by the ``huggingface`` metadata.
    A sample is named by its struct path, or by ``file:row``.

    Raises:
        ValueError: a file is not parquet, a column is unknown, or no column can hold pictures.
    """

    def __init__(self, files: Sequence[str | Path], image_column: str | None = None, label_column: str | None = None) -> None:
        self.files = [Path(file) for file in files]
        metadata = [_metadata(file) for file in self.files]
        schema = _schema(self.files[0])
        self.image_column = _image_column(schema, image_column, self.files[0])
        self.label_column, self.classes = _label_column(schema, label_column, self.files[0])
        groups = [(number, group, meta.row_group(group)) for number, meta in enumerate(metadata) for group in range(meta.num_row_groups)]
        self._groups = [(number, group) for number, group, _ in groups]
        self._starts: list[int] = [0, *accumulate(meta.num_rows for _, _, meta in groups)]
        self._file_starts: list[int] = [0, *accumulate(meta.num_rows for meta in metadata)]
        self._limit = len(groups) if sum(meta.total_byte_size for _, _, meta in groups) <= WHOLE_BYTES else _CACHED_GROUPS
        self._paths: Any = None  # read when a name is asked for
        self._cache: OrderedDict[int, dict[str, Any]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": OrderedDict()}

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Sample:
        columns, row = self._row(index)
        data = columns["bytes"][row].as_py()
        name = self._name(columns, row, index)
        if data is None:
            raise ValueError(f"{name}: column {self.image_column} holds no bytes; write the pictures into the table, not only their paths")
        label = None if "label" not in columns else columns["label"][row].as_py()
        return Sample(name, data, None if label is None or label < 0 else int(label))

    def name(self, index: int) -> str:
        if self._paths is None:  # the names alone: a split by name must not read every picture
            self._paths = self._read_paths()
        path = self._paths[index].as_py() if self._paths else None
        return str(path) if path else self._by_row(index)

    def _read_paths(self) -> Any:
        """The column ``image.path`` of all files as one Arrow array; empty where there is none."""
        leaf = f"{self.image_column}.path"
        parts = []
        for file in self.files:
            with pq.ParquetFile(file) as opened:
                if leaf not in [opened.schema.column(i).path for i in range(len(opened.schema))]:
                    return pa.chunked_array([], pa.large_string())
                column = opened.read(columns=[leaf], use_threads=False)[self.image_column]
                parts += [chunk.field("path").cast(pa.large_string()) for chunk in column.chunks]
        return pa.chunked_array(parts, pa.large_string())

    def _name(self, columns: dict[str, Any], row: int, index: int) -> str:
        path = columns["path"][row].as_py() if "path" in columns else None
        return str(path) if path else self._by_row(index)

    def _by_row(self, index: int) -> str:
        file = bisect_right(self._file_starts, index) - 1
        return f"{self.files[file].name}:{index - self._file_starts[file]}"

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
        wanted = [self.image_column] + ([self.label_column] if self.label_column else [])
        with pq.ParquetFile(self.files[file]) as opened:
            table = opened.read_row_group(group, columns=wanted, use_threads=False)  # threads do not survive a fork
        image = table[self.image_column].combine_chunks()
        columns = _image_columns(image)
        if self.label_column:
            columns["label"] = table[self.label_column].combine_chunks()
        return columns


def _image_columns(image: Any) -> dict[str, Any]:
    if not pa.types.is_struct(image.type):
        return {"bytes": image}
    names = [image.type.field(i).name for i in range(image.type.num_fields)]
    return {name: image.field(name) for name in ("bytes", "path") if name in names}


def _metadata(file: Path) -> Any:
    try:
        return pq.read_metadata(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"{file} is not a parquet file, or is damaged ({str(error).splitlines()[0]}); remove it or write it again"
        ) from None


def _schema(file: Path) -> Any:
    return pq.read_schema(file)


def _features(schema: Any) -> dict[str, Any]:
    """The feature descriptions that ``datasets`` writes into the table's metadata, by column; empty where there are none."""
    text = (schema.metadata or {}).get(b"huggingface", b"{}")
    found: dict[str, Any] = json.loads(text).get("info", {}).get("features", {})
    return found


def _holds_pictures(type: Any) -> bool:
    if pa.types.is_struct(type):
        return any(type.field(i).name == "bytes" for i in range(type.num_fields))
    return bool(pa.types.is_binary(type) or pa.types.is_large_binary(type))


def _image_column(schema: Any, wanted: str | None, file: Path) -> str:
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
    features = _features(schema)
    images = [name for name in candidates if features.get(name, {}).get("_type") == "Image"]
    return str((images or [name for name in candidates if name in ("image", "img")] or candidates)[0])


def _label_column(schema: Any, wanted: str | None, file: Path) -> tuple[str | None, list[str] | None]:
    features = _features(schema)
    labelled = [name for name, feature in features.items() if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"]
    usual = [name for name in _LABEL_NAMES if name in schema.names and pa.types.is_integer(schema.field(name).type)]
    if wanted is not None:
        _require(schema, wanted, "label_column", file)
        if not pa.types.is_integer(schema.field(wanted).type):
            raise ValueError(f"data.label_column {wanted} of {file} is {schema.field(wanted).type}; labels are integers")
    column = wanted or next(iter(labelled + usual), None)
    names = features.get(column, {}).get("names") if column else None
    return column, list(names) if names else None


def _require(schema: Any, column: str, option: str, file: Path) -> None:
    if column not in schema.names:
        raise ValueError(f"data.{option} {column} is not a column of {file}; its columns are {', '.join(schema.names)}")


def _open(place: Place) -> dict[str, Source]:
    return {"all": Parquet(place.files("parquet"), place.columns.image, place.columns.label)}


FORMAT = Format("parquet", lambda place: False, _open)
