"""VQAv2: a JSON file of questions, one of annotations with ten answers each, and COCO's pictures.

``{"questions": [{"question_id", "image_id", "question"}, ...]}`` and ``{"annotations": [{"question_id", "answers": [{"answer"}, ...]},
...]}``; ``image_id`` is the number at the end of a picture's file name. Test questions have no annotations. Source: https://visualqa.org/vqa_v2_teaser.html

Suffixes of names: Q questions, A annotations.
"""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mae_vlm.data.sources.base import Format, Place, Source
from mae_vlm.data.sources.parts.json_stream import elements, ends
from mae_vlm.data.sources.parts.list_rows import Rows, collect
from mae_vlm.data.sources.parts.list_words import Words, cut_lists
from mae_vlm.data.sources.parts.numbered import Numbered, numbered
from mae_vlm.data.sources.parts.split_names import split_in
from mae_vlm.data.sources.parts.together import together
from mae_vlm.data.sources.parts.word_columns import encodable

_MOST_FILES = 100


class Pair(NamedTuple):
    """The questions of one part and their annotations, None for test questions; ``subset`` is COCO's, as train2014, or empty."""

    questions: Path
    annotations: Path | None
    subset: str
    part: str


def _claims(place: Place) -> bool:
    for pair in _pairs(place):
        try:
            asked = (one.value for one in elements(pair.questions) if one.key == "questions" and isinstance(one.value, dict))
            first = [one.get("image_id") for one in islice(asked, 20)]
        except ValueError:
            return False
        pictures = _pictures(place, pair)
        if any(isinstance(id, int) and pictures.holds(id) for id in first):
            return True
    return False


def _open(place: Place) -> dict[str, Source]:
    pairs = _pairs(place)
    parts = [pair.part for pair in pairs]
    if not pairs or len(set(parts)) < len(parts):
        found = ", ".join(pair.questions.name for pair in pairs) or "none"
        raise ValueError(
            f"data.path {place.path} must hold one file of VQAv2 questions for each part, has {found}; name it by data.annotations"
        )
    if len(pairs) == 1 or "train" not in parts:
        return {"all": together([read_pair(pair, place) for pair in pairs])}
    return {pair.part: read_pair(pair, place) for pair in pairs}


def read_pair(pair: Pair, place: Place) -> Source:
    """The pictures that are asked about, each with all its questions.

    Raises:
        ValueError: a file is damaged, or none of the pictures is there.
    """
    ids_Q, images_Q, texts_Q = _questions(pair.questions, place)
    answers_Q = _answers_of(ids_Q, pair.annotations, place) if pair.annotations else None
    if answers_Q is None and pair.part != "test":
        place.problems.add("no file of annotations", pair.questions, pair.part, "its questions have no answers")
    pictures = _pictures(place, pair)
    if not np.isin(images_Q, pictures.ids_P).any():
        folders = ", ".join(folder or "the folder itself" for folder in _folders(pair))
        raise ValueError(f"none of the pictures of {pair.questions} is in {_root(place)} (looked in {folders}); put them there")
    rows = Rows(pictures.paths(images_Q), questions=Words(texts_Q, np.arange(len(ids_Q)), answers_Q))
    return collect(rows, pair.questions, place, _root(place))["all"]


def _pairs(place: Place) -> list[Pair]:
    """The question files of a place (train, val, test), each with the annotations of the same subset."""
    tops = [root if root.is_dir() else root.parent for root in place.roots]
    folders = [folder for top in tops for folder in (top, top / "annotations", top / "questions") if folder.is_dir()]
    beside = [file for folder in folders for file in sorted(folder.glob("*.json"))[:_MOST_FILES]]
    chosen = [folder / name for folder in folders for name in place.annotations] or [root for root in place.roots if root.is_file()]
    kinds: dict[str, list[Path]] = defaultdict(list)
    for file in dict.fromkeys([*chosen, *beside]):
        if file.suffix.lower() == ".json" and file.is_file():
            kinds[_kind(file)].append(file)
    asked, told = [file for file in kinds["questions"] if not chosen or file in chosen], kinds["annotations"]
    if any(_key(file) == "test" and "test-dev" not in file.name for file in asked):
        asked = [file for file in asked if "test-dev" not in file.name]  # these are some of the test questions
    pairs = []
    for file in asked:
        same = [other for other in told if _key(other) == _key(file)]
        if not same and len(asked) == len(told) == 1 and None in (_key(file), _key(told[0])):
            same = told
        pairs.append(Pair(file, same[0] if same else None, _subset(file), _key(file) or "all"))
    return sorted(pairs, key=lambda pair: ("train", "val", "test", "all").index(pair.part))


def _kind(file: Path) -> str:
    text = ends(file)
    if '"question_id"' not in text:
        return ""
    if '"annotations"' in text and '"answers"' in text:
        return "annotations"
    return "questions" if '"questions"' in text and '"image_id"' in text else ""


def _subset(file: Path) -> str:
    found = re.search(r"(train|val|test)(-dev)?(\d{4})", file.name)
    return f"{found[1]}{found[3]}" if found else ""


def _key(file: Path) -> str | None:
    """The part that a file's name tells; test-dev is test."""
    return split_in(file.stem.replace("test-dev", "test"))


def _root(place: Place) -> Path:
    return place.root if place.root.is_dir() else place.root.parent


def _folders(pair: Pair) -> list[str]:
    known = [name for name in (pair.subset, pair.part) if name and name != "all"]
    return [*known, *(f"images/{name}" for name in known), "images", ""]


def _pictures(place: Place, pair: Pair) -> Numbered:
    return numbered(_root(place), _folders(pair))


def _questions(file: Path, place: Place) -> tuple[NDArray[np.int64], NDArray[np.int64], Any]:
    """(ids, picture numbers, texts) of the questions; each id once."""
    ids: list[int] = []
    images: list[int] = []
    texts: list[str] = []
    seen: set[int] = set()
    for element in elements(file):
        one = element.value
        if element.key != "questions":
            continue
        try:
            id, image, text = int(one["question_id"]), int(one["image_id"]), encodable(str(one["question"]))
            np.array([id, image], np.int64)  # OverflowError
        except (KeyError, TypeError, ValueError, OverflowError):
            place.problems.add("question without id, picture or text", file, f"entry {len(ids)}", "it is left out")
            continue
        if id in seen:
            place.problems.add("question listed again", file, id, "the first counts")
            continue
        seen.add(id)
        ids.append(id)
        images.append(image)
        texts.append(text)
    if not ids:
        raise ValueError(f"{file} holds no question; check it, or name another by data.annotations")
    return np.array(ids, np.int64), np.array(images, np.int64), pa.array(texts, pa.large_string())


def _answers_of(ids_Q: NDArray[np.int64], file: Path, place: Place) -> Any:
    """For each question the list of its answers, empty where it has no annotation."""
    ids_A, answers_A = _annotations(file, place)
    unique, first = np.unique(ids_A, return_index=True)
    for kind, at, text in (
        ("annotation listed again", np.setdiff1d(np.arange(len(ids_A)), first), "the first counts"),
        ("annotation without question", np.flatnonzero(~np.isin(ids_A, ids_Q)), "it is left out"),
    ):
        for number in at.tolist():
            place.problems.add(kind, file, int(ids_A[number]), text)
    at_Q = np.minimum(np.searchsorted(unique, ids_Q), max(len(unique) - 1, 0))
    nothing = len(ids_A)
    rows_Q = np.where(unique[at_Q] == ids_Q, first[at_Q], nothing) if len(unique) else np.full(len(ids_Q), nothing)
    return pa.concat_arrays([answers_A, cut_lists(pa.array([], pa.large_string()), [0])]).take(pa.array(rows_Q))


def _annotations(file: Path, place: Place) -> tuple[NDArray[np.int64], Any]:
    """(ids of questions, lists of answers) of the annotations."""
    ids: list[int] = []
    counts: list[int] = []
    texts: list[str] = []
    known: dict[str, str] = {}  # four million answers are a few hundred thousand strings
    for element in elements(file):
        one = element.value
        if element.key != "annotations" or not isinstance(one, dict) or not isinstance(one.get("question_id"), int):
            continue
        said = one.get("answers", [])
        if not isinstance(said, list) or not all(isinstance(answer, dict) for answer in said):
            place.problems.add("answers are no list of objects", file, one["question_id"], f"{said!r}"[:60])
            said = []
        answers = [encodable(str(answer.get("answer", ""))) for answer in said]
        answers = [known.setdefault(text, text) for text in answers if text.strip()]
        ids.append(one["question_id"])
        counts.append(len(answers))
        texts += answers
    return np.array(ids, np.int64), cut_lists(pa.array(texts, pa.large_string()), counts)


FORMAT = Format("vqav2", _claims, _open)
