"""Which columns of a table hold captions, questions and answers, and the words of one row."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import pyarrow as pa

from mae_vlm.data.sources.base import Columns
from mae_vlm.types import Question, Sample

_CAPTIONS = ("caption", "text", "sentence", "description", "comment", "raw")  # also with an s, and numbered: caption_0, caption_1
_QUESTIONS = ("question", "questions")
_ANSWERS = ("answer", "answers")  # the answer comes first: beside it, answers are often its parts or its synonyms
_FIELDS = ("answer", "raw", "caption", "text")  # of a struct, the one that is meant


class WordColumns(NamedTuple):
    """Names of columns; several with captions where they are numbered."""

    captions: tuple[str, ...] = ()
    question: str | None = None
    answer: str | None = None

    @property
    def all(self) -> list[str]:
        return [*self.captions, *(name for name in (self.question, self.answer) if name)]


def find_words(schema: Any, columns: Columns, where: str) -> WordColumns:
    """The columns of an Arrow ``schema`` that the user named, or that have a usual name and hold strings or lists of them.

    Where there is both ``answer`` and ``answers``, the first is taken: it is what was answered to the question; the second may be other
    spellings or the parts of the same answer. Answers without a question count nothing.

    Raises:
        ValueError: a named column is not there, or holds no strings.
    """
    for option, name in (("caption", columns.caption), ("question", columns.question), ("answer", columns.answer)):
        if name is not None:
            _check(schema, name, option, where)
    captions = (columns.caption,) if columns.caption else _captions(schema)
    question = columns.question or _usual(schema, _QUESTIONS)
    answer = columns.answer or _usual(schema, _ANSWERS)
    if columns.answer and question is None:
        raise ValueError(
            f"data.answer_column {columns.answer} of {where} needs data.question_column; its columns are {', '.join(schema.names)}"
        )
    return WordColumns(captions, question, answer if question else None)


def strings(value: Any) -> tuple[str, ...]:
    """All strings that are in a value of a row: itself, in lists, or in the field of a struct that is meant; empty ones are left out."""
    if value is None or value == "":
        return ()
    if isinstance(value, dict):
        return strings(next((value[key] for key in _FIELDS if key in value), None))
    if isinstance(value, list | tuple):
        return tuple(text for one in value for text in strings(one))
    return (str(value),)


def encodable(text: str) -> str:
    """The text with question marks for lone surrogates, which JSON can write and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def questions(asked: Any, answers: Any, name: str) -> tuple[Question, ...]:
    """The questions of a row: one, with the answers that people gave; or as many as there are answers.

    Raises:
        ValueError: the lists of questions and answers are not of one length.
    """
    if isinstance(asked, list):
        answers = [None] * len(asked) if answers is None else answers
        if not isinstance(answers, list) or len(answers) != len(asked):
            told = len(answers) if isinstance(answers, list) else 1
            raise ValueError(f"{name}: {len(asked)} questions but {told} answers; correct the row")
        return tuple(Question(text, strings(of_one)) for text, of_one in zip(asked, answers, strict=True) if text)
    return (Question(str(asked), strings(answers)),) if asked else ()


def words_into(sample: Sample, row: dict[str, Any], columns: WordColumns) -> Sample:
    """The sample with the words of its row.

    Raises:
        ValueError: as ``questions``.
    """
    sample.captions = tuple(text for name in columns.captions for text in strings(row[name]))
    if columns.question:
        sample.questions = questions(row[columns.question], row[columns.answer] if columns.answer else None, sample.id)
    return sample


def holds_strings(kind: Any, numbers: bool = False) -> bool:
    """Whether an Arrow type is a string, or lists or structs of them (``numbers``: or a number, as answers may be)."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return holds_strings(kind.value_type, numbers)
    if pa.types.is_struct(kind):
        return any(kind.field(i).name in _FIELDS and holds_strings(kind.field(i).type, numbers) for i in range(kind.num_fields))
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or (numbers and number))


def field_meant(kind: Any) -> str:
    """The name of the field that is meant, of a struct that ``holds_strings``."""
    return next(name for name in _FIELDS if kind.get_field_index(name) >= 0)


def _captions(schema: Any) -> tuple[str, ...]:
    for base in _CAPTIONS:
        names = [name for name in schema.names if re.fullmatch(rf"{base}s?([_ -]?\d+)?", name.lower())]
        found = tuple(name for name in names if holds_strings(schema.field(name).type))
        if found:
            return found
    return ()


def _usual(schema: Any, wanted: tuple[str, ...]) -> str | None:
    numbers = wanted is _ANSWERS
    names = (name for usual in wanted for name in schema.names if name.lower() == usual)
    return next((name for name in names if holds_strings(schema.field(name).type, numbers)), None)


def _check(schema: Any, name: str, option: str, where: str) -> None:
    if name not in schema.names:
        raise ValueError(f"data.{option}_column {name} is not a column of {where}; its columns are {', '.join(schema.names)}")
    kind = schema.field(name).type
    if not holds_strings(kind, numbers=option == "answer"):
        raise ValueError(f"data.{option}_column {name} of {where} is {kind}, not strings or lists of them; name another")
