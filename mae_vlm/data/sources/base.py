"""What every source of pictures promises, and two sources made of others: a part of one and several in a row."""

from __future__ import annotations

import bisect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from mae_vlm.types import Sample


class Source(ABC):
    """A numbered collection of pictures: the same number gives the same sample in every process.

    A source is picklable and cheap to build; it opens files when first asked for a sample, in the process that asks.
    ``classes`` names the labels, in label order, where the collection has labels.
    """

    classes: list[str] | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """The sample, its picture still encoded where it comes from a file.

        Raises:
            IndexError: the index is not in ``[0, len)``.
            OSError, ValueError: the file is gone, or is not what its index said.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """A name that stays when pictures are added, told without decoding; it is the sample's ``id``."""


class Part(Source):
    """The pictures of ``whole`` whose indices are listed, in that order."""

    def __init__(self, whole: Source, indices: NDArray[np.int64]) -> None:
        self.whole, self.indices, self.classes = whole, indices, whole.classes

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.whole[int(self.indices[index])]

    def name(self, index: int) -> str:
        return self.whole.name(int(self.indices[index]))


class Joined(Source):
    """All pictures of several sources, one source after the other."""

    def __init__(self, parts: Sequence[Source]) -> None:
        self.parts = list(parts)
        self.classes = self.parts[0].classes
        self._ends = list(accumulate(len(part) for part in self.parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        part, inner = self._locate(index)
        return part[inner]

    def name(self, index: int) -> str:
        part, inner = self._locate(index)
        return part.name(inner)

    def _locate(self, index: int) -> tuple[Source, int]:
        which = bisect.bisect_right(self._ends, index)
        return self.parts[which], index - (self._ends[which - 1] if which else 0)
