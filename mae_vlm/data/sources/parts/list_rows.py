"""The rows of a list to a source: pictures with several rows put together, and whatever is wrong with them told."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mae_vlm.data.problems import Problems
from mae_vlm.data.sources.base import Place, Source
from mae_vlm.data.sources.parts.files import missing
from mae_vlm.data.sources.parts.label_values import LabelValues, codes_of, sorted_classes
from mae_vlm.data.sources.parts.list_words import Words, cut_lists
from mae_vlm.data.sources.parts.listed import Listed, picture_base
from mae_vlm.data.sources.parts.split_column import by_part, split_codes


class Rows(NamedTuple):
    """A list as it stands: Arrow arrays with one entry for each row (R of them); a picture may have several rows. None: not told.

    Attributes:
        paths: ``large_string``, as written.
        labels: ``large_string``: names of classes, or their numbers; null or empty where a row tells none.
        classes: a list of ``large_string`` instead, of several classes; null where a row tells none.
        numbers: float32 ``[R, V]`` instead, NaN where a row tells none.
        captions: with the row of each.
        questions: with the row of each, and their answers.
        splits: ``large_string``: a word for train, val or test.
        alone: a picture has one row only, as it is in lists without captions and questions: a second one is a mistake.
    """

    paths: Any
    labels: Any = None
    captions: Words | None = None
    questions: Words | None = None
    splits: Any = None
    alone: bool = False
    classes: Any = None
    numbers: NDArray[np.float32] | None = None


def collect(rows: Rows, file: Path, place: Place, base: Path | None = None) -> dict[str, Source]:
    """The pictures of a list by part ({"all": source} without ``splits``); what is wrong with it goes to ``place.problems``.

    Paths are relative to ``base``; without it, to the folder in which they are found.

    Raises:
        ValueError: no picture is there.
    """
    encoded = pc.dictionary_encode(rows.paths)
    paths, number_R = encoded.dictionary, encoded.indices.to_numpy()
    if not len(paths):
        raise ValueError(f"{file} names no picture; check the list, or name its column by data.image_column")
    base = base or _base(file, place, paths)
    first_P = np.empty(len(paths), np.int64)
    first_P[number_R[::-1]] = np.arange(len(number_R))[::-1]  # of a picture's rows, the first is written last
    told = _Telling(place.problems, file, paths, number_R, first_P, np.ones(len(number_R), np.bool_))
    if rows.alone:
        told.repeated()
    split_P = None
    if rows.splits is not None:
        codes_R = split_codes(rows.splits)
        split_P = told.agreed("picture in two parts", codes_R)
        told.used_R &= codes_R == split_P[number_R]  # what is said of a validation picture must not be trained on
    gone = missing(base, paths.to_pylist())
    keep_P = ~pc.is_in(paths, value_set=pa.array(sorted(gone), pa.large_string())).to_numpy(zero_copy_only=False)
    told.pictures("missing picture", ~keep_P, f"not in {base}")
    if split_P is not None:
        told.pictures("unknown split", keep_P & (split_P < 0), "its split is none of train, val and test")
        keep_P &= split_P >= 0
    source = _build(rows, told, base, keep_P, place)
    if split_P is None:
        return {"all": source}
    return by_part(source, split_P[keep_P], file)


@dataclass
class _Telling:
    """Tells problems of a list's pictures (P) and rows (R): the picture of each row, each one's first row, and the rows that count."""

    problems: Problems
    file: Path
    paths: Any
    number_R: NDArray[Any]
    first_P: NDArray[np.int64]
    used_R: NDArray[np.bool_]

    def pictures(self, kind: str, which_P: NDArray[np.bool_], text: str) -> None:
        for number in np.flatnonzero(which_P).tolist():
            self.problems.add(kind, self.file, self.paths[number].as_py(), text)

    def rows(self, kind: str, rows: NDArray[Any], text: str) -> None:
        for row in rows.tolist():
            self.problems.add(kind, self.file, self.paths[int(self.number_R[row])].as_py(), f"row {row + 1}: {text}")

    def repeated(self) -> None:
        """Tells the rows of pictures that had one before."""
        again_R = np.ones(len(self.number_R), np.bool_)
        again_R[self.first_P] = False
        self.rows("picture listed again", np.flatnonzero(again_R), "the first row counts")
        self.used_R &= ~again_R

    def agreed(self, kind: str, codes_R: NDArray[np.int32]) -> NDArray[np.int32]:
        """What the first row of each picture says; rows that say something else are told."""
        first_P: NDArray[np.int32] = codes_R[self.first_P]
        self.rows(kind, np.flatnonzero((codes_R != first_P[self.number_R]) & (codes_R >= 0)), "the first row counts")
        return first_P


def _base(file: Path, place: Place, paths: Any) -> Path:
    spread = [paths[int(at)].as_py() for at in np.linspace(0, len(paths) - 1, min(20, len(paths)))]
    root = place.root if place.root.is_dir() else place.root.parent
    base = picture_base(file, root, spread)
    if base is None:
        raise ValueError(
            f"none of the pictures that {file} names is there (as {spread[0]}): looked in {file.parent}, its folder images and {root}; "
            "put them there, or name another column by data.image_column"
        )
    return base


def _build(rows: Rows, told: _Telling, base: Path, keep_P: NDArray[np.bool_], place: Place) -> Listed:
    """The source of the pictures kept; the words of the others go with them."""
    labels_P, classes = None, None
    if rows.labels is not None:
        codes_R, classes = _label_codes(rows.labels, place.classes, told)
        labels_P = told.agreed("picture with two labels", codes_R)[keep_P]
    source = Listed(base, told.paths.filter(pa.array(keep_P)), labels_P, classes)
    _add_values(source, rows, told, keep_P, place.classes)
    place_P = np.where(keep_P, np.cumsum(keep_P) - 1, -1)
    if rows.captions is not None:
        fine_W = _filled(rows.captions, told, "empty caption")
        source.captions = _by_picture(rows.captions.texts, rows.captions.row_W, fine_W, told, place_P)
    if rows.questions is not None:
        texts, row_W, answers = rows.questions
        fine_W = _filled(rows.questions, told, "empty question")
        if answers is not None:
            some_W = pc.list_value_length(answers).to_numpy() > 0
            told.rows("question without answer", row_W[fine_W & ~some_W], "it is left out")
            fine_W &= some_W
            source.answers = _by_picture(answers, row_W, fine_W, told, place_P)
        source.questions = _by_picture(texts, row_W, fine_W, told, place_P)
    return source


def _add_values(source: Listed, rows: Rows, told: _Telling, keep_P: NDArray[np.bool_], given: list[str] | None) -> None:
    """Several classes or numbers of each picture kept; the first row of a picture counts."""
    if rows.classes is not None:
        codes, source.classes, strange_R = codes_of(rows.classes, given)
        source.several = True
        told.rows("unknown label", strange_R, f"not one of the {len(source.classes)} classes of the other part; it is left out")
        source.values = LabelValues(codes, len(source.classes)).rows(told.first_P[keep_P])
    elif rows.numbers is not None:
        source.values = LabelValues(numbers_RV=rows.numbers).rows(told.first_P[keep_P])
        source.numbers = source.values.numbers


def _filled(words: Words, told: _Telling, kind: str) -> NDArray[np.bool_]:
    empty_W = pc.equal(pc.utf8_trim_whitespace(words.texts), "").to_numpy(zero_copy_only=False)
    told.rows(kind, words.row_W[empty_W], "it is left out")
    return np.asarray(~empty_W)


def _by_picture(values: Any, row_W: NDArray[np.int64], fine_W: NDArray[np.bool_], told: _Telling, place_P: NDArray[Any]) -> Any:
    """The fine values as one Arrow list for each picture kept, in the order of the rows."""
    owner_W = place_P[told.number_R[row_W]]
    chosen = np.flatnonzero(fine_W & (owner_W >= 0) & told.used_R[row_W])
    chosen = chosen[np.argsort(owner_W[chosen], kind="stable")]
    counts = np.bincount(owner_W[chosen], minlength=int((place_P >= 0).sum()))
    return cut_lists(values.take(pa.array(chosen)), counts)


def _label_codes(labels: Any, given: list[str] | None, told: _Telling) -> tuple[NDArray[np.int32], list[str]]:
    """Class numbers by row, and the classes: ``given``, or all names sorted (numbers by their size). Empty and -1: no label."""
    encoded = pc.dictionary_encode(pc.utf8_trim_whitespace(pc.fill_null(labels, "")))
    names = encoded.dictionary.to_pylist()
    whole = all(re.fullmatch(r"-?\d+", name) for name in names if name)
    none = {"", "-1"} if whole else {""}
    classes = given or sorted_classes([name for name in names if name not in none])
    numbers = {name: number for number, name in enumerate(classes)}
    codes_R = np.array([numbers.get(name, -1) for name in names], np.int32)[encoded.indices.to_numpy()]
    strange = [number for number, name in enumerate(names) if name not in numbers and name not in none]
    unknown = np.flatnonzero(np.isin(encoded.indices.to_numpy(), strange))
    told.rows("unknown label", unknown, f"not one of the {len(classes)} classes of the other part; the picture has none")
    return codes_R, classes
