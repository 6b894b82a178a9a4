"""A column of labels that are no single class: several classes of each picture, or numbers to learn.

Suffixes of names: R rows of the table, V numbers of a row.
"""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

KINDS = ("auto", "class", "classes", "number")
_FRACTION = r"^-?\d*\.\d+$"
_NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"


@dataclass(frozen=True)
class LabelValues:
    """What the label column says of each row, as ``Sample.values``: 1 or 0 for each of ``classes``, or the numbers.

    ``codes`` is an Arrow list of class numbers for each row, null where nothing is told; ``numbers_RV`` float32, NaN where nothing is.
    """

    codes: Any = None
    classes: int = 0
    numbers_RV: NDArray[np.float32] | None = None

    @property
    def several(self) -> bool:
        return self.codes is not None

    @property
    def numbers(self) -> int:
        """How many of them a row has; 0 for classes."""
        return 0 if self.numbers_RV is None else self.numbers_RV.shape[1]

    def rows(self, index: NDArray[Any]) -> LabelValues:
        """Those of these rows."""
        if self.numbers_RV is not None:
            return LabelValues(numbers_RV=self.numbers_RV[index])
        return LabelValues(self.codes.take(pa.array(index)), self.classes)

    def of(self, row: int) -> Tensor | None:
        """float32 ``[classes]`` or ``[V]``; None where nothing is told of the row."""
        if self.numbers_RV is not None:
            values_V = torch.from_numpy(self.numbers_RV[row])
            return None if bool(values_V.isnan().any()) else values_V
        codes = self.codes[row].as_py()
        return None if codes is None else torch.zeros(self.classes).index_fill_(0, torch.tensor(codes, dtype=torch.int64), 1.0)


def kind_of(column: Any, wanted: str) -> str:
    """What a column (Arrow) holds, where ``wanted`` is auto: class, classes (lists), number (fractions); empty where it is no label."""
    kind = column.type
    if is_list(kind):
        inner = kind.value_type
        told = "number" if pa.types.is_floating(inner) else "classes" if is_class(inner) else ""
    elif pa.types.is_floating(kind):
        told = "number"
    elif not is_class(kind):
        told = ""
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        told = _kind_of_text(column)
    else:
        told = "class"
    return told if wanted == "auto" or not told else wanted


def as_classes(column: Any, where: str) -> Any:
    """A column of classes that stand there as 1.0 and 2.0 as one of integers; any other as it is.

    Raises:
        ValueError: a fraction.
    """
    if not pa.types.is_floating(column.type):
        return column
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid:
        raise ValueError(f"{where} holds fractions, which are no classes; set data.label_kind number") from None


def tell_whole(values_RV: NDArray[np.float32], where: str, wanted: str) -> None:
    """Warn of a column that is learned as numbers by its looks alone, and may hold classes."""
    told = values_RV[~np.isnan(values_RV)]
    if wanted == "auto" and len(told) and bool((told == np.round(told)).all()):
        text = f"{where} holds whole numbers as fractions (such as {told[0]:.1f}), so they are learned as numbers, by regression; "
        warnings.warn(text + "data.label_kind number says that this is meant, data.label_kind class makes classes of them", stacklevel=2)


def cells_of(column: Any, where: str) -> Any:
    """An Arrow list of ``large_string`` for each row of a column of lists, of text, or of single values; null where nothing is told.

    Text is a JSON list, or has bars between the parts.

    Raises:
        ValueError: a cell begins as a JSON list and is none.
    """
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if is_list(column.type):
        return column.cast(pa.large_list(pa.large_string()))
    encoded = pc.dictionary_encode(column.cast(pa.large_string()))
    lists = pa.array([_parts(text, where) for text in encoded.dictionary.to_pylist()], pa.large_list(pa.large_string()))
    return lists.take(encoded.indices)


def numbers_of(cells: Any, where: str) -> NDArray[np.float32]:
    """``[R, V]`` of cells with one number or V of them each, NaN where nothing is told.

    Raises:
        ValueError: a cell holds what is no number, or another number of them than the first.
    """
    texts = pc.list_flatten(cells)
    try:
        values = texts.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        strange = next(text for text in texts.to_pylist() if text is not None and not re.fullmatch(_NUMBER, text))
        raise ValueError(f"{where} holds {strange!r}, which is no number; correct it, or set data.label_kind classes") from None
    lengths_R = pc.fill_null(pc.list_value_length(cells), 0).to_numpy()
    told_R = np.flatnonzero(lengths_R)
    if not len(told_R):
        raise ValueError(f"{where} holds no number; name another data.label_column")
    count = int(lengths_R[told_R[0]])
    other = told_R[lengths_R[told_R] != count]
    if len(other):
        held = lengths_R[other[0]]
        raise ValueError(f"row {other[0] + 1} of {where} holds {held} numbers, row {told_R[0] + 1} holds {count}; give all rows as many")
    found = np.full((len(cells), count), np.nan, np.float32)
    found[told_R] = values.reshape(-1, count)
    return found


def codes_of(cells: Any, given: list[str] | None) -> tuple[Any, list[str], NDArray[np.int64]]:
    """(class numbers as an Arrow list for each row, the classes, rows with a name that is not ``given``, which is left out there).

    The classes are ``given``, or all names sorted, numbers by their size.
    """
    flat = pc.utf8_trim_whitespace(pc.fill_null(pc.list_flatten(cells), ""))
    row_W = pc.list_parent_indices(cells).to_numpy()
    encoded = pc.dictionary_encode(flat)
    names = encoded.dictionary.to_pylist()
    classes = given if given is not None else sorted_classes([name for name in names if name])
    numbers = {name: number for number, name in enumerate(classes)}
    code_W = np.array([numbers.get(name, -1) for name in names], np.int32)[encoded.indices.to_numpy()]
    strange_W = (code_W < 0) & np.asarray(pc.not_equal(flat, "").to_numpy(zero_copy_only=False))
    counts = np.bincount(row_W[code_W >= 0], minlength=len(cells))
    lists = pa.LargeListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(counts)])), pa.array(code_W[code_W >= 0]))
    unknown = pc.is_null(cells)
    return pc.if_else(unknown, pa.scalar(None, lists.type), lists), classes, np.unique(row_W[strange_W]).astype(np.int64)


def sorted_classes(names: list[str]) -> list[str]:
    """Sorted, numbers by their size."""
    whole = all(re.fullmatch(r"-?\d+", name) for name in names)
    return sorted(set(names), key=(lambda name: (int(name), name)) if whole else None)


def is_class(kind: Any) -> bool:
    """Whether a column of this type can hold one class for each row."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _kind_of_text(column: Any) -> str:
    """Of cells of text: fractions in all are numbers; a JSON list in all, or a bar in any, tells lists."""
    told = column.filter(pc.not_equal(pc.utf8_trim_whitespace(pc.fill_null(column, "")), ""))
    if not len(told):
        return "class"
    lists = bool(pc.all(pc.match_substring_regex(told, r"^\s*\[.*\]\s*$")).as_py())
    if not lists and not pc.any(pc.match_substring(told, "|")).as_py():
        return "number" if pc.all(pc.match_substring_regex(told, _FRACTION)).as_py() else "class"
    first: list[str] = next((cell for cell in cells_of(told.slice(0, 100), "the column").to_pylist() if cell), [])
    return "number" if first and all(re.fullmatch(_FRACTION, part.strip()) for part in first) else "classes"


def _parts(text: str | None, where: str) -> list[str] | None:
    text = (text or "").strip()
    if not text:
        return None
    if not text.startswith("["):
        return [part.strip() for part in text.split("|")]
    try:
        values = json.loads(text)
    except json.JSONDecodeError as problem:
        raise ValueError(f"{where} holds {text[:60]!r}, which is no JSON list ({problem.msg}); correct it") from None
    return [str(value) for value in values if value is not None]
