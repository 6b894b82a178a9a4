"""Tables written as text: csv, tsv, JSON lines, a JSON list of objects, and Flickr's token lists; read into Arrow."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.json as arrow_json

from mae_vlm.data.sources.parts.files import is_picture

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".txt", ".token")  # the last two: csv, or a token list
_HEAD = 1 << 20  # bytes that are looked at to tell what a file is
_BLOCK = 64 << 20  # bytes that Arrow parses at once: no row may be longer
_WINDOW = 1 << 22  # characters of a JSON list in memory at once
_TOKEN = re.compile(r"([^\t\n]+\.\w+)#\d+\t([^\n]*)")  # picture.jpg#0 <tab> caption
_BETWEEN = re.compile(r"[\s,]*")


def read_table(file: Path) -> Any:
    """All rows of a table. Cells of csv and tsv are strings; those of JSON keep their types, dates stay strings.

    A csv without a header (a name of a picture stands in its first row) has the columns 1, 2, 3 ...; whether it is cut at commas,
    semicolons, tabs or bars is told by its first row.

    Raises:
        ValueError: the file is not UTF-8 (a byte order mark is fine), or a row is not what the others are.
    """
    try:
        if file.suffix.lower() == ".json":
            return _read_lines(pa.py_buffer(_as_lines(file)))
        data = _utf8(file)
        if file.suffix.lower() == ".jsonl":
            return _read_lines(data)
        return _read_tokens(data) if _TOKEN.match(_start(data)) else _read_csv(data, file)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file}: {str(error).splitlines()[0]}; correct the row or column and start again") from None


def head_rows(file: Path, count: int = 20) -> list[dict[str, Any]]:
    """The first rows, from the head of the file alone; none where it is not such a table."""
    try:
        with file.open("rb") as opened:
            data = opened.read(_HEAD)
        text = data.decode("utf-8-sig", "replace")
        text = text if len(data) < _HEAD else text[: text.rfind("\n") + 1]
        if file.suffix.lower() in (".json", ".jsonl"):
            lines = (json.loads(line) for line in text.split("\n") if line.strip())
            values = lines if file.suffix.lower() == ".jsonl" else (value for value, _ in list_elements(file))
            return [value for value in islice(values, count) if isinstance(value, dict)]
        if _TOKEN.match(text):
            return [{"image": found[1], "caption": found[2]} for found in islice(_TOKEN.finditer(text), count)]
        names, delimiter, skip = _header(text, file)
        rows = csv.reader(io.StringIO(text), delimiter=delimiter)
        return [dict(zip(names, row, strict=False)) for row in islice(rows, skip, count + skip)]
    except (OSError, ValueError, csv.Error):
        return []


def list_elements(file: Path) -> Iterator[tuple[Any, str]]:
    """Each element of a file that is one JSON list, and its text: a few megabytes of the file are in memory at once.

    Raises:
        ValueError: the file is no JSON list, is not UTF-8 or is cut short.
    """
    decoder = json.JSONDecoder()
    try:
        with file.open(encoding="utf-8-sig") as opened:
            text = opened.read(_WINDOW).lstrip()
            if not text.startswith("["):
                raise ValueError(f"{file} is not a JSON list of objects; write it as [{{...}}, ...] or one object a line (.jsonl)")
            at = 1
            while True:
                at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]
                if text[at : at + 1] == "]":
                    return
                try:
                    value, end = decoder.raw_decode(text, at)
                except json.JSONDecodeError as error:
                    more = opened.read(max(_WINDOW, len(text)))
                    if not more:
                        raise ValueError(f"{file} is not JSON, or is cut short ({error.msg}); write it again") from None
                    text, at = text[at:] + more, 0
                    continue
                yield value, text[at:end]
                at = end
    except UnicodeDecodeError as error:
        raise _not_utf8(file, error.start) from None


def _as_lines(file: Path) -> bytes:
    """A JSON list as JSON lines: within an element, line ends stand between its parts only."""
    return "\n".join(text.replace("\r", " ").replace("\n", " ") for _, text in list_elements(file)).encode()


def _read_lines(lines: Any) -> Any:
    if not len(lines):
        raise pa.ArrowInvalid("the table is empty")
    read = arrow_json.ReadOptions(use_threads=False, block_size=_BLOCK)  # threads do not survive a fork
    table = arrow_json.read_json(pa.BufferReader(lines), read)
    dates = [field for field in table.schema if _undated(field.type) != field.type]
    if dates:  # Arrow takes strings for dates where it can
        schema = pa.schema([pa.field(field.name, _undated(field.type)) for field in dates])
        table = arrow_json.read_json(pa.BufferReader(lines), read, arrow_json.ParseOptions(schema))
    return table


def _undated(kind: Any) -> Any:
    if pa.types.is_list(kind):
        return pa.list_(_undated(kind.value_type))
    return pa.string() if pa.types.is_timestamp(kind) else kind


def _start(data: Any) -> str:
    text: str = data[:_HEAD].to_pybytes().decode("utf-8", "replace")
    return text


def _read_tokens(data: Any) -> Any:
    read = arrow_csv.ReadOptions(use_threads=False, block_size=_BLOCK, column_names=["image", "caption"])
    types = arrow_csv.ConvertOptions(column_types=dict.fromkeys(read.column_names, pa.large_string()))
    table = arrow_csv.read_csv(pa.BufferReader(data), read, arrow_csv.ParseOptions(delimiter="\t", quote_char=False), types)
    return table.set_column(0, "image", pc.replace_substring_regex(table["image"], r"#\d+$", ""))


def _read_csv(data: Any, file: Path) -> Any:
    names, delimiter, header = _header(_start(data), file)
    quotes = any(b'"' in bytes(memoryview(data)[start : start + _HEAD]) for start in range(0, len(data), _HEAD))
    return arrow_csv.read_csv(
        pa.BufferReader(data),
        arrow_csv.ReadOptions(use_threads=False, block_size=_BLOCK, column_names=names, skip_rows=header),
        arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=quotes),
        arrow_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.large_string())),  # 007.jpg is no number
    )


def _header(head: str, file: Path) -> tuple[list[str], str, int]:
    """(column names, delimiter, rows to skip) from the text at the beginning of a csv or tsv.

    Raises:
        ValueError: it is empty, or names a column twice.
    """
    first = head.split("\n", 1)[0]
    delimiter = "\t" if file.suffix.lower() == ".tsv" else max(",;\t|", key=first.count)
    row = [cell.strip() for cell in next(csv.reader(io.StringIO(head), delimiter=delimiter), [])]
    if not any(row):
        raise ValueError(f"{file} is empty or begins with an empty row; write it with a header")
    if any(is_picture(cell.rpartition("/")[2]) for cell in row):
        return [str(number + 1) for number in range(len(row))], delimiter, 0
    twice = [name for name in row if row.count(name) > 1]
    if twice:
        raise ValueError(f"{file} names the column {twice[0]!r} twice; rename one")
    return row, delimiter, 1


def _utf8(file: Path) -> Any:
    """The bytes of a file, mapped into memory, without a byte order mark.

    Raises:
        ValueError: they are not UTF-8.
    """
    if not file.stat().st_size:
        raise ValueError(f"{file} is empty; write it again")
    data = pa.memory_map(str(file)).read_buffer()
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(data), _HEAD):
        try:
            decoder.decode(memoryview(data)[start : start + _HEAD], final=start + _HEAD >= len(data))
        except UnicodeDecodeError as error:
            raise _not_utf8(file, start + error.start) from None
    return data[3:] if data[:3].to_pybytes() == codecs.BOM_UTF8 else data


def _not_utf8(file: Path, at: int) -> ValueError:
    with file.open("rb") as opened:
        wide = opened.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    told = "it is UTF-16" if wide else f"byte {at} is none"
    return ValueError(f"{file} is not UTF-8 text ({told}); save it again as UTF-8")
