"""Picture files that a list names, with a label, captions and questions where it tells them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mae_vlm.data.sources.base import Source
from mae_vlm.data.sources.parts.annotated import read_picture
from mae_vlm.data.sources.parts.label_values import LabelValues
from mae_vlm.types import Question, Sample


class Listed(Source):
    """Pictures at ``paths`` (``large_string``; absolute, or relative to ``base``), which are also their names.

    A list is the user's own word: absolute paths are read wherever they lead, if to regular files.
    Labels are int32 with -1 for none. Captions and questions are Arrow lists of strings by picture, answers one list for each question.
    """

    def __init__(self, base: Path, paths: Any, labels: NDArray[np.int32] | None = None, classes: list[str] | None = None) -> None:
        self.base, self.classes = base, classes
        self._paths, self._labels = paths, labels
        self.captions: Any = None
        self.values: LabelValues | None = None
        self.questions: Any = None
        self.answers: Any = None

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, index: int) -> str:
        return str(self._paths[index].as_py())

    def names(self) -> Any:
        return self._paths.cast(pa.large_binary())

    def __getitem__(self, index: int) -> Sample:
        sample = self.worded(index)
        sample.image = read_picture(self.base / sample.id)
        if self._labels is not None and self._labels[index] >= 0:
            sample.label = int(self._labels[index])
        if self.values is not None:
            sample.values = self.values.of(index)
        return sample

    def worded(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        sample = Sample(self.name(index), b"")
        if self.captions is not None:
            sample.captions = tuple(self.captions[index].as_py())
        if self.questions is not None:
            asked = self.questions[index].as_py()
            answers = self.answers[index].as_py() if self.answers is not None else [()] * len(asked)
            sample.questions = tuple(Question(text, tuple(of_one)) for text, of_one in zip(asked, answers, strict=True))
        return sample


def picture_base(file: Path, root: Path, names: Sequence[str]) -> Path | None:
    """The folder that ``names`` (a few of a list's) are relative to; None where none of them is there.

    Tried are the list's own folder, ``images`` in it, a folder called as the list, and the same of ``root``; then the other folders in
    these, if one alone has them.
    """
    near = [folder for top in dict.fromkeys((file.parent, root)) for folder in (top, top / "images", top / file.stem)]
    hits = [(_there(folder, names), folder) for folder in near]
    most, base = max(hits, key=lambda hit: hit[0])
    if most:
        return base
    inner = [entry for top in dict.fromkeys((file.parent, root)) for entry in sorted(top.iterdir()) if entry.is_dir()]
    counted = sorted(((_there(folder, names), folder) for folder in inner), reverse=True)
    if not counted or not counted[0][0] or (len(counted) > 1 and counted[1][0] == counted[0][0]):
        return None
    return counted[0][1]


def _there(folder: Path, names: Sequence[str]) -> int:
    return sum(os.path.isfile(folder / name) for name in names)  # noqa: PTH113 (pathlib's raises for a name that is too long)
