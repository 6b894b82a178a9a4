"""Karpathy's split of COCO, Flickr30k and Flickr8k: one JSON file with pictures, their captions and their part.

``{"images": [{"filename": ..., "filepath": "val2014", "split": "restval", "sentences": [{"raw": ...}, ...]}, ...]}``; restval, COCO's
validation pictures that are trained on, counts as train. Source: https://cs.stanford.edu/people/karpathy/deepimagesent
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mae_vlm.data.sources.base import Format, Place, Source
from mae_vlm.data.sources.parts.files import outside
from mae_vlm.data.sources.parts.json_stream import elements, ends
from mae_vlm.data.sources.parts.list_rows import Rows, collect
from mae_vlm.data.sources.parts.list_words import Words
from mae_vlm.data.sources.parts.listed import picture_base
from mae_vlm.data.sources.parts.word_columns import encodable

_MARKS = ('"images"', '"sentences"', '"raw"', '"split"', '"filename"')
_MOST_FILES = 100


def _files(place: Place) -> list[Path]:
    """The files of this form: those that the user named, or in the root folders themselves."""
    named = [root / name for root in place.roots for name in place.annotations]
    files = named or [file for root in place.roots for file in ([root] if root.is_file() else sorted(root.glob("*.json")))]
    return [file for file in files[:_MOST_FILES] if file.suffix.lower() == ".json" and file.is_file() and _is_karpathy(file)]


def _is_karpathy(file: Path) -> bool:
    text = ends(file)
    return text.lstrip("\xef\xbb\xbf \t\r\n").startswith("{") and all(mark in text for mark in _MARKS)


def _claims(place: Place) -> bool:
    root = place.root if place.root.is_dir() else place.root.parent
    for file in _files(place):
        try:
            named = (one.value for one in elements(file) if one.key == "images" and _is_named(one.value))
            first = [_name(one) for one in islice(named, 20)]
        except ValueError:
            return False
        if first and picture_base(file, root, first) is not None:
            return True
    return False


def _open(place: Place) -> dict[str, Source]:
    files = _files(place)
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise ValueError(f"data.path {place.path} must hold one file as dataset_coco.json, has {found}; name it by data.annotations")
    return read_karpathy(files[0], place)


def read_karpathy(file: Path, place: Place) -> dict[str, Source]:
    """The pictures of the file by part. Pictures are looked for beside it: ``filepath/filename``, or in ``images`` or one other folder.

    Raises:
        ValueError: the file is damaged, or no picture is there.
    """
    names: list[str] = []
    splits: list[str] = []
    texts: list[str] = []
    owners: list[int] = []
    for element in elements(file):
        one = element.value
        if element.key != "images":
            continue
        if not _is_named(one):
            place.problems.add("entry without a picture", file, f"after entry {len(names)}", "it has no filename")
            continue
        name, sentences = encodable(_name(one)), one.get("sentences", [])
        if outside(name):
            place.problems.add("picture outside the collection", file, name, "it is left out")
            continue
        if not isinstance(sentences, list):
            place.problems.add("sentences are no list", file, name, f"{sentences!r}"[:60])
            sentences = []
        said = [sentence.get("raw") for sentence in sentences if isinstance(sentence, dict)]
        owners += [len(names)] * len(said)
        texts += [encodable(str(text or "")) for text in said]
        names.append(name)
        splits.append(encodable(str(one.get("split", ""))))
    captions = Words(pa.array(texts, pa.large_string()), np.array(owners, np.int64))
    rows = Rows(pa.array(names, pa.large_string()), captions=captions, splits=pa.array(splits, pa.large_string()), alone=True)
    return collect(rows, file, place)


def _is_named(one: Any) -> bool:
    return isinstance(one, dict) and isinstance(one.get("filename"), str)


def _name(one: Any) -> str:
    folder = one.get("filepath")
    return f"{folder}/{one['filename']}" if folder else str(one["filename"])


FORMAT = Format("karpathy", _claims, _open)
