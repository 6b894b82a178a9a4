"""The words of a list's table in one form: all texts in one Arrow array, and the row of each.

Suffixes of names: R rows of the list, W words (captions, or questions) of all rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mae_vlm.data.problems import Problems
from mae_vlm.data.sources.parts.word_columns import WordColumns, field_meant


class Words(NamedTuple):
    """Texts (``large_string``), their rows, and for each a list of answers (``large_string``); None where nobody has answered."""

    texts: Any
    row_W: NDArray[np.int64]
    answers: Any = None


def captions_of(table: Any, columns: WordColumns) -> Words | None:
    """All captions, those of one row in the order of their columns; None where there is no such column."""
    found = [_flat(table[name].combine_chunks()) for name in columns.captions]
    if not found:
        return None
    texts, row_W = pa.concat_arrays([texts for texts, _ in found]), np.concatenate([row_W for _, row_W in found])
    order = np.argsort(row_W, kind="stable")
    return Words(texts.take(pa.array(order)), row_W[order])


def questions_of(table: Any, columns: WordColumns, file: Path, problems: Problems) -> Words | None:
    """All questions with their answers; None where there is no such column.

    A row has one question, whose answers are all that is in its answer column; or a list of questions and one of as many answers (or
    lists of them). A row whose lists are not of one length is told and has no questions.
    """
    if columns.question is None:
        return None
    asked = table[columns.question].combine_chunks()
    answers = table[columns.answer].combine_chunks() if columns.answer else None
    row_W = np.arange(len(asked))
    if is_list(asked.type):
        if answers is not None:
            same = _same_length(asked, answers, file, problems)
            asked, answers, row_W = asked.filter(pa.array(same)), answers.filter(pa.array(same)), np.flatnonzero(same)
            answers = pc.list_flatten(answers) if is_list(answers.type) else answers
        row_W = row_W[pc.list_parent_indices(asked).to_numpy()]
        asked = pc.list_flatten(asked)
    texts = pc.fill_null(asked.cast(pa.large_string()), "")
    if answers is None:
        return Words(texts, row_W)
    values, question_A = _flat(answers)
    given = pa.array(pc.not_equal(pc.utf8_trim_whitespace(values), ""))
    counts = np.bincount(question_A[given.to_numpy(zero_copy_only=False)], minlength=len(texts))
    return Words(texts, row_W, cut_lists(values.filter(given), counts))


def cut_lists(values: Any, counts: Any) -> Any:
    """The values cut into Arrow lists of these lengths."""
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return pa.LargeListArray.from_arrays(pa.array(offsets), values)


def is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _flat(values: Any) -> tuple[Any, NDArray[np.int64]]:
    """(all strings as ``large_string``, the row of each) of strings, numbers, or lists or structs of them; null ones are left out."""
    if pa.types.is_struct(values.type):
        return _flat(pc.struct_field(values, field_meant(values.type)))
    if is_list(values.type):
        texts, inner = _flat(pc.list_flatten(values))
        return texts, pc.list_parent_indices(values).to_numpy()[inner]
    there = pc.is_valid(values)
    return values.filter(there).cast(pa.large_string()), np.flatnonzero(there.to_numpy(zero_copy_only=False))


def _same_length(asked: Any, answers: Any, file: Path, problems: Problems) -> NDArray[np.bool_]:
    asked_R, answers_R = _lengths(asked), _lengths(answers)
    for row in np.flatnonzero(asked_R != answers_R).tolist():
        text = f"{asked_R[row]} questions, {answers_R[row]} answers"
        problems.add("questions and answers differ in number", file, f"row {row + 1}", text)
    return np.asarray(asked_R == answers_R)


def _lengths(values: Any) -> NDArray[np.int64]:
    if not is_list(values.type):
        return np.asarray(pc.is_valid(values).to_numpy(zero_copy_only=False), np.int64)
    return np.asarray(pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False), np.int64)
