"""NLVR2: statements about pairs of web pictures, true or false (Suhr et al. 2019, arXiv 1811.00491).

Lines of JSON, ``{"identifier": "train-10171-0-0", "sentence": ..., "label": "True", "left_url": ..., "right_url": ..., "directory": 44}``,
in train.json, dev.json and test1.json. The pictures are named by the identifier without its last number, ``train-10171-0-img0.png`` and
``-img1.png`` (train's in a folder for each ``directory``), or as their addresses, or files given in their place, end.
Source: https://github.com/lil-lab/nlvr
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mae_vlm.data.sources.base import Format, NamedFiles, Place, Source
from mae_vlm.data.sources.parts.annotated import read_picture
from mae_vlm.data.sources.parts.files import missing, outside
from mae_vlm.data.sources.parts.json_lines import files_of, lines, open_parts, spread
from mae_vlm.data.sources.parts.word_columns import encodable
from mae_vlm.types import Question, Sample

_KEYS = frozenset({"identifier", "sentence", "left_url", "right_url"})
_TRUTHS = {"true": "true", "false": "false", "1": "true", "0": "false"}
Naming = Callable[[dict[str, Any]], tuple[str, str]]


class StatedPairs(NamedFiles):
    """Pairs of pictures, each with a statement: all are lists of one length, in order; pictures are relative to ``base``."""

    def __init__(self, base: Path, names: list[str], pictures: list[tuple[str, str]], sentences: list[str], truths: list[str]) -> None:
        self.base = base
        self._names = pa.array([encodable(name).encode() for name in names], pa.large_binary())
        self._left, self._right = (pa.array([pair[side] for pair in pictures], pa.large_string()) for side in (0, 1))
        self._sentences, self._truths = pa.array(sentences, pa.large_string()), pa.array(truths, pa.large_string())

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        left, right = (read_picture(self.base / side[index].as_py()) for side in (self._left, self._right))
        truth = self._truths[index].as_py()
        statement = Question(self._sentences[index].as_py(), (truth,) if truth else ())
        return Sample(self.name(index), left, questions=(statement,), partner=right)


def read_pairs(file: Path, place: Place) -> Source:
    """The pairs of one file. Pictures are looked for in its folder and in ``data.path``, there in ``images``, the part's folder, or both.

    Raises:
        ValueError: a line is damaged, or none of the pictures is there.
    """
    rows: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(lines(file)):
        name = str(line.value.get("identifier", f"line {number + 1}"))
        if not (line.value.keys() >= _KEYS and str(line.value["sentence"]).strip()):
            place.problems.add("line without a statement about two pictures", file, name, "it is left out")
        elif name in rows:
            place.problems.add("statement listed again", file, name, "the first counts")
        else:
            rows[name] = line.value
    base, naming = _layout(file, place, list(rows.values()))
    pairs = {name: naming(row) for name, row in rows.items()}
    gone = missing(base, [picture for pair in pairs.values() for picture in pair])
    for name, pair in pairs.items():
        for picture in pair:
            if outside(picture) or picture in gone:
                place.problems.add("missing picture", file, name, f"{picture} is not in {base}")
    kept = [name for name, pair in pairs.items() if not any(outside(picture) or picture in gone for picture in pair)]
    truths = [_TRUTHS.get(str(rows[name].get("label", "")).lower(), "") for name in kept]
    for name in np.array(kept)[np.array(truths) == ""].tolist() if "test" not in file.stem else []:
        place.problems.add("statement without a label", file, name, "it is neither true nor false")
    sentences = [encodable(" ".join(str(rows[name]["sentence"]).split())) for name in kept]
    return StatedPairs(base, kept, [pairs[name] for name in kept], sentences, truths)


def _layout(file: Path, place: Place, rows: list[dict[str, Any]]) -> tuple[Path, Naming]:
    """Where the pictures are and how they are called, by which most of some are found."""
    root = place.root if place.root.is_dir() else place.root.parent
    folders = ["", "images", file.stem, f"images/{file.stem}"]
    bases = [top / folder for top in dict.fromkeys((file.parent, root)) for folder in folders]
    some = spread(rows)
    tried = [(_hits(base, naming, some), base, naming) for base in bases for naming in (_by_directory, _by_identifier, _by_address)]
    hits, base, naming = max(tried, key=lambda one: one[0], default=(0, root, _by_identifier))
    if not hits:
        shown = " or ".join(_by_identifier(some[0])) if some else "none is named"
        raise ValueError(f"none of the pictures of {file} is there (as {shown}): looked in {root} and its folders images and {file.stem}")
    return base, naming


def _hits(base: Path, naming: Naming, rows: list[dict[str, Any]]) -> int:
    return sum((base / name).is_file() for row in rows for name in naming(row))


def _by_identifier(row: dict[str, Any]) -> tuple[str, str]:
    stem = str(row["identifier"]).rpartition("-")[0]
    return f"{stem}-img0.png", f"{stem}-img1.png"


def _by_directory(row: dict[str, Any]) -> tuple[str, str]:
    left, right = _by_identifier(row)
    return f"{row.get('directory')}/{left}", f"{row.get('directory')}/{right}"


def _by_address(row: dict[str, Any]) -> tuple[str, str]:
    """A file given in an address's place may lie in a folder."""
    left, right = (str(row[key]) for key in ("left_url", "right_url"))
    return _end(left), _end(right)


def _end(address: str) -> str:
    return address.partition("?")[0].rstrip("/").rpartition("/")[2] if "://" in address else address


def _open(place: Place) -> dict[str, Source]:
    return open_parts(place, files_of(place, _KEYS), read_pairs, "file of statements about pairs, as NLVR2's train.json")


FORMAT = Format("nlvr2", lambda place: bool(files_of(place, _KEYS)), _open)
