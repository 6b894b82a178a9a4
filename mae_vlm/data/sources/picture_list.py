"""Lists of pictures: csv, tsv, JSON or JSON lines, one row a picture, or one for each caption or question of it.

The label column (``data.label_column``, or one of a usual name) holds one of three kinds, told by its cells or by ``data.label_kind``:

- class: one name or whole number: ``cat``, ``3``, in JSON also ``true``.
- classes: several of them: a JSON list (``["cat", "dog"]``, ``[0, 3]``), in csv and tsv also as text, or with bars: ``cat|dog``. An empty
  list, written ``[]``, says that none is there; an empty cell or null, that nothing is known.
- number: a fraction (``0.37``), or a list of as many in every row (``[0.1, 2.5]``, ``0.1|2.5``). A column of whole numbers is
  taken for classes unless ``data.label_kind`` is number. Fractions are taken for labels only where ``data.label_column`` names them;
  whole numbers written as fractions (``1.0``) are numbers, with a warning, unless ``data.label_kind`` is class.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mae_vlm.data.sources.base import Columns, Format, Place, Source
from mae_vlm.data.sources.parts.files import is_picture
from mae_vlm.data.sources.parts.label_values import as_classes, cells_of, is_class, kind_of, numbers_of, tell_whole
from mae_vlm.data.sources.parts.list_rows import Rows, collect
from mae_vlm.data.sources.parts.list_words import captions_of, questions_of
from mae_vlm.data.sources.parts.listed import picture_base
from mae_vlm.data.sources.parts.split_column import WORDS
from mae_vlm.data.sources.parts.split_names import split_in
from mae_vlm.data.sources.parts.tables import SUFFIXES, head_rows, read_table
from mae_vlm.data.sources.parts.word_columns import WordColumns, find_words

_IMAGES = ("image", "image_path", "path", "file", "filename", "file_name", "img", "filepath", "picture", "images")
_LABELS = ("label", "labels", "class", "class_name", "category", "target", "fine_label", "y")
_MOST_TABLES = 100  # of one folder: where there are more, they are no lists of its pictures
_SPLIT_COLUMNS = ("split", "set", "subset", "partition")


def lists(place: Place, wanted: Callable[[WordColumns], bool] | None = None) -> list[Path]:
    """The tables of a place that name pictures which are there: those that the user named, or in the root folders themselves.

    A list that was not named must tell more than which pictures there are: ``wanted`` of its word columns, or a label, words or a split.
    """
    named = [root / name for root in place.roots for name in place.annotations]
    files = named or [file for root in place.roots for file in ([root] if root.is_file() else _tables(root))]
    tables = [file for file in files if file.suffix.lower() in SUFFIXES and file.is_file()]
    return [file for file in tables if _certain(file, place, wanted, asked=bool(named) or file in place.roots)]


def _tables(root: Path) -> list[Path]:
    changed = root.stat().st_mtime_ns
    settled = time.time_ns() - changed > 10**9  # the clock of files is coarse: a folder just changed may change again unseen
    return _look(str(root), changed) if settled else _look.__wrapped__(str(root), changed)


@lru_cache(maxsize=8)  # three formats ask, and beside the table there may be a million pictures
def _look(root: str, changed: int) -> list[Path]:
    with os.scandir(root) as listing:
        found = sorted(entry.path for entry in listing if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith("."))
    return [Path(path) for path in found] if len(found) <= _MOST_TABLES else []


def _certain(file: Path, place: Place, wanted: Callable[[WordColumns], bool] | None, asked: bool) -> bool:
    rows = head_rows(file)
    names = list(dict.fromkeys(name for row in rows for name in row))
    image = _image_column(names, lambda name: [row.get(name) for row in rows], place.columns.image)
    if image is None:  # a list that was named with a column it has not: what is wrong is said when it is read
        return file in place.roots and place.columns.image is not None and bool(names) and wanted is None
    try:
        schema = pa.schema([pa.field(name, _kind([row.get(name) for row in rows])) for name in names])
        words = find_words(schema, place.columns, file.name)
    except ValueError:
        return asked
    tells = bool(words.captions or words.question or {*_LABELS, *_SPLIT_COLUMNS} & {name.lower() for name in names})
    if not (wanted(words) if wanted else asked or tells or place.columns.label in names):
        return False
    if file in place.roots:  # nothing else it could be: what is wrong with it is said when it is read
        return True
    root = place.root if place.root.is_dir() else place.root.parent
    return picture_base(file, root, [str(row[image]) for row in rows if row.get(image)]) is not None


def open_lists(place: Place, wanted: Callable[[WordColumns], bool] | None = None, what: str = "pictures") -> dict[str, Source]:
    """The pictures of a place's lists. Lists named train and val (or test) are its parts; several without such names the user must choose.

    Raises:
        ValueError: there is no such list, there are several, or one cannot be read.
    """
    found = lists(place, wanted)
    if not found:
        raise ValueError(
            f"data.path {place.path} holds no list of {what} that are there; "
            f"write one ({' '.join(SUFFIXES)}) beside the pictures, or name it by data.annotations"
        )
    parts = {part: [file for file in found if split_in(file.stem) == part] for part in ("train", "val", "test")}
    if len(found) > 1 and parts["train"] and sum(map(bool, parts.values())) > 1:
        chosen = {part: files for part, files in parts.items() if files}
    else:
        chosen = {"all": found}
    opened: dict[str, Source] = {}
    for part, files in chosen.items():
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise ValueError(
                f"data.path {place.path} holds several lists ({names}); choose one by data.annotations, or set data.format folder"
            )
        given = place.classes or (opened["train"].classes if opened else None)
        sources = open_list(files[0], replace(place, classes=given), split=part == "all")
        opened |= sources if part == "all" else {part: sources["all"]}
    pa.default_memory_pool().release_unused()  # what the text took as it was read
    return opened


def open_list(file: Path, place: Place, split: bool = True) -> dict[str, Source]:
    """The pictures of one list; by part where ``split`` and a column, or the first folders of the pictures, tell them.

    Raises:
        ValueError: a named column is not there, no column names pictures, or no picture is there.
    """
    table = read_table(file)
    columns = place.columns
    for option in ("image", "label", "split"):
        name = getattr(columns, option)
        if name is not None and name not in table.column_names:
            raise ValueError(f"data.{option}_column {name} is not a column of {file}; its columns are {', '.join(table.column_names)}")
    image = _image_column(table.column_names, lambda name: _head(table, name), columns.image)
    if image is None:
        raise ValueError(
            f"no column of {file} names pictures; its columns are {', '.join(table.column_names)}; name one by data.image_column"
        )
    named = pc.and_kleene(pc.is_valid(table[image]), pc.not_equal(_text(table[image]), ""))
    if not pc.all(named).as_py():
        for row in pc.indices_nonzero(pc.invert(pc.fill_null(named, False))).to_pylist():
            place.problems.add("row without a picture", file, f"row {row + 1}", f"column {image} is empty")
        table = table.filter(pc.fill_null(named, False))
    words = find_words(table.schema, columns, file.name)
    paths = _text(table[image])
    rows = Rows(
        paths,
        captions=captions_of(table, words),
        questions=questions_of(table, words, file, place.problems),
        splits=_splits(table, columns, paths) if split else None,
        alone=not words.all,
        **_labels(table, columns, file),
    )
    return collect(rows, file, place)


def _image_column(names: Sequence[str], head: Callable[[str], list[Any]], wanted: str | None) -> str | None:
    """The column named, or one of a usual name, or any, whose first cells are names of pictures."""
    if wanted is not None:
        return wanted if wanted in names else None
    usual = [name for known in _IMAGES for name in names if name.lower() == known]
    for name in [*usual, *names]:
        cells = [cell for cell in head(name) if cell not in (None, "")]
        if cells and all(isinstance(cell, str) and is_picture(cell.rpartition("/")[2]) for cell in cells):
            return name
    return None


def _kind(cells: list[Any]) -> Any:
    try:
        return pa.array(cells).type
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # cells of several types: what is wrong with them is said when all are read
        return pa.string()


def _head(table: Any, name: str) -> list[Any]:
    cells: list[Any] = table[name].slice(0, 20).to_pylist()
    return cells


def _labels(table: Any, columns: Columns, file: Path) -> dict[str, Any]:
    """The column named, or one of a usual name that holds classes, as one of the fields of :class:`Rows`.

    Raises:
        ValueError: the column named holds nothing that could be a label.
    """
    usual = (name for known in _LABELS for name in table.column_names if name.lower() == known)
    sure = ("class", "classes", columns.label_kind)  # a fraction may be anything: taken where somebody says that it is to be learned
    name = columns.label or next((name for name in usual if kind_of(table[name], "auto") in sure), None)
    if name is None:
        return {}
    kind, where = kind_of(table[name], columns.label_kind), f"data.label_column {name} of {file}"
    told = table.schema.field(name).type
    if kind == "class":
        table = table.set_column(table.column_names.index(name), name, as_classes(table[name], where))
        told = table.schema.field(name).type
    if not kind or (kind == "class" and not is_class(told)):
        raise ValueError(f"{where} is {told}; labels are names or whole numbers, lists of them, or fractions; set data.label_kind auto")
    if kind == "class":
        return {"labels": _text(table[name])}
    cells = cells_of(table[name], where)
    if kind == "classes":
        return {"classes": cells}
    values_RV = numbers_of(cells, where)
    tell_whole(values_RV, where, columns.label_kind)
    return {"numbers": values_RV}


def _splits(table: Any, columns: Columns, paths: Any) -> Any:
    """The column named; or one of a usual name, or the first folders, where they tell train and another part."""
    if columns.split is not None:
        return _text(table[columns.split])
    usual = [name for known in _SPLIT_COLUMNS for name in table.column_names if name.lower() == known]
    for words in [_text(table[name]) for name in usual] + [pc.list_element(pc.split_pattern(paths, "/", max_splits=1), 0)]:
        parts = {WORDS.get((word or "").strip().lower(), "") for word in pc.unique(words).to_pylist()[:1000]}
        if "train" in parts and len(parts) > 1 and (usual or "" not in parts):
            return words
    return None


def _text(column: Any) -> Any:
    """A column as one array of ``large_string``."""
    return column.cast(pa.large_string()).combine_chunks()


FORMAT = Format("list", lambda place: bool(lists(place)), open_lists)
