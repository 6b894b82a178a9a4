"""VCR: questions about scenes of films with four answers to choose from, and then four reasons (Zellers et al. 2019, arXiv 1811.10830).

Lines of JSON, ``{"img_fn": ..., "objects": ["person", "person", "cup"], "question": ["What", "are", [0, 1], "doing", "?"],
"answer_choices": [...], "answer_label": 2, "rationale_choices": [...], "rationale_label": 0}``, in train.jsonl, val.jsonl and test.jsonl,
and pictures in vcr1images. A list of numbers stands for objects, which become words: "person 1 and person 2"; which of the people in the
picture that is stays open. Source: https://visualcommonsense.com/download
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mae_vlm.data.sources.base import Format, NamedFiles, Place, Source
from mae_vlm.data.sources.parts.annotated import read_picture
from mae_vlm.data.sources.parts.files import missing, outside
from mae_vlm.data.sources.parts.json_lines import files_of, line_at, lines, open_parts
from mae_vlm.data.sources.parts.listed import picture_base
from mae_vlm.data.sources.parts.word_columns import encodable
from mae_vlm.types import Question, Sample

_KEYS = frozenset({"img_fn", "objects", "question", "answer_choices"})
_FOLDER = "vcr1images"
_BEFORE_MARK = re.compile(r"\s+(?=[?.,!;:]|n?'\w)")


class ChosenAnswers(NamedFiles):
    """The pictures that ``file`` asks about, each with all its questions; lines are read when asked for, only their places are kept.

    Args:
        base: folder of the pictures.
        starts: by name of a picture, where its lines begin.
    """

    def __init__(self, file: Path, base: Path, starts: dict[str, list[int]]) -> None:
        self.file, self.base = file, base
        self._names = pa.array([encodable(name).encode() for name in starts], pa.large_binary())
        self._starts = np.array([start for some in starts.values() for start in some], np.int64)
        self._ends = np.cumsum([len(some) for some in starts.values()], dtype=np.int64)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        name, first = self.name(index), int(self._ends[index - 1]) if index else 0
        asked = [line_at(self.file, int(start)) for start in self._starts[first : self._ends[index]]]
        return Sample(name, read_picture(self.base / name), questions=tuple(one for row in asked for one in questions(row)))


def questions(row: dict[str, Any]) -> list[Question]:
    """What a line asks: the answer, and where that is told the reason for it.

    Raises:
        ValueError: it is not what a line of VCR is.
    """
    try:
        names = called(row["objects"])
        text, choices = worded(row["question"], names), tuple(worded(one, names) for one in row["answer_choices"])
        right = row.get("answer_label")
        asked = [Question(text, () if right is None else (choices[int(right)],), choices)]
        reasons = tuple(worded(one, names) for one in row.get("rationale_choices") or ())
        reason = row.get("rationale_label")
        if reasons and right is not None:
            told = () if reason is None else (reasons[int(reason)],)
            asked.append(Question(f"{text} {choices[int(right)]}", told, reasons, rationale=True))
        return asked
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{row.get('annot_id') or row.get('img_fn')}: no question of VCR's form ({error!r})") from None


def called(objects: Sequence[str]) -> list[str]:
    """What each object of a picture is called: people, and whatever there is several of, by numbers."""
    seen: dict[str, int] = {}
    names = []
    for kind in objects:
        seen[kind] = seen.get(kind, 0) + 1
        names.append(f"{kind} {seen[kind]}" if kind == "person" or objects.count(kind) > 1 else kind)
    return names


def worded(tokens: Sequence[str | list[int]], names: Sequence[str]) -> str:
    """A text of words and lists of objects as plain words."""
    words = [one if isinstance(one, str) else " and ".join(names[number] for number in one) for one in tokens]
    return encodable(_BEFORE_MARK.sub("", " ".join(words)))


def read_choices(file: Path, place: Place) -> Source:
    """The pictures of one file with their questions.

    Raises:
        ValueError: a line is damaged, or none of the pictures is there.
    """
    starts: dict[str, list[int]] = {}
    for line in lines(file):
        name = str(line.value.get("img_fn", ""))
        try:
            questions(line.value)
        except ValueError as problem:
            place.problems.add("question not of VCR's form", file, name, str(problem))
            continue
        starts.setdefault(name, []).append(line.start)
    base = _base(file, place, list(starts))
    gone = missing(base, list(starts))
    for name in [name for name in starts if outside(name) or name in gone]:
        place.problems.add("missing picture", file, name, f"not in {base}")
        del starts[name]
    return ChosenAnswers(file, base, starts)


def _base(file: Path, place: Place, names: list[str]) -> Path:
    root = place.root if place.root.is_dir() else place.root.parent
    some = names[:: max(1, len(names) // 20)]
    found = next((top / _FOLDER for top in (root, file.parent) if any((top / _FOLDER / name).is_file() for name in some)), None)
    found = found or picture_base(file, root, some)
    if found is None:
        shown = names[0] if names else "none is named"
        raise ValueError(f"none of the pictures of {file} is there (as {shown}): looked in {root} and its folder {_FOLDER}")
    return found


def _open(place: Place) -> dict[str, Source]:
    return open_parts(place, files_of(place, _KEYS), read_choices, "file of questions with choices, as VCR's train.jsonl")


FORMAT = Format("vcr", lambda place: bool(files_of(place, _KEYS)), _open)
