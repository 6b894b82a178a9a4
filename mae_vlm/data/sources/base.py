"""What every source of pictures promises, how a format says what it opens, and two sources made of others."""

from __future__ import annotations

import bisect
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae_vlm.data.problems import Problems
from mae_vlm.data.sources.parts.categories import joined_ids, joined_stuff
from mae_vlm.data.sources.parts.files import walk
from mae_vlm.types import Deferred, Sample


class Source(ABC):
    """A numbered collection of pictures: the same number gives the same sample in every process.

    A source is picklable and cheap to build; it opens files when first asked for a sample, in the process that asks. What it keeps of a
    million samples stands in numpy or Arrow arrays: Python objects would be copied into every forked worker, page by page.

    Attributes:
        classes: names of the labels, in label order, where samples have labels.
        object_classes: names of ``Sample.classes`` and of ``Sample.semantic``, where samples have them.
        object_ids: the collection's own numbers of its object classes, as COCO's category ids, where it has any.
        stuff: of the object classes those of which a picture has one segment at most, as sky; None where nobody says.
        several: whether samples have ``values`` for these classes, instead of one label.
        numbers: how many ``values`` to learn a sample has that are no classes.
        block_ends: int64, where each block of samples that are cheap to read together ends (a shard, a row group); None where any order
            costs the same.
        prefers_blocks: whether reading in any order is slow (remote shards, large tables): ``data.order auto`` shuffles by blocks.
    """

    classes: list[str] | None = None
    object_classes: list[str] | None = None
    object_ids: list[int] | None = None
    stuff: list[str] | None = None
    several: bool = False
    numbers: int = 0
    block_ends: NDArray[np.int64] | None = None
    prefers_blocks: bool = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """The sample, its picture still encoded where it comes from a file.

        Raises:
            IndexError: the index is not in ``[0, len)``.
            OSError, ValueError: the file is gone, or is not what its index said.
        """

    def worded(self, index: int) -> Sample:
        """The captions and questions of the sample; its picture is left out (``image`` is empty) where that saves reading it.

        Raises:
            IndexError, OSError, ValueError: as for the sample.
        """
        return self[index]

    @abstractmethod
    def name(self, index: int) -> str:
        """A name that stays when pictures are added, told without decoding; it is the sample's ``id``."""

    def names(self) -> Any:
        """All names at once: an Arrow array of ``large_binary`` (file names are bytes, not always UTF-8)."""
        return pa.array((self.name(index).encode("utf-8", "surrogateescape") for index in range(len(self))), pa.large_binary())


class NamedFiles(Source):
    """A source whose samples are files, their names kept in one Arrow array of ``large_binary``."""

    _names: Any

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return os.fsdecode(self._names[index].as_py())

    def names(self) -> Any:
        return self._names


@dataclass(frozen=True)
class Columns:
    """The columns (of tables) or keys (of JSON lines) that the user named; None where they are to be found by type or usual name."""

    image: str | None = None
    label: str | None = None
    caption: str | None = None
    question: str | None = None
    answer: str | None = None
    split: str | None = None
    label_kind: str = "auto"  # class, classes or number


@dataclass(frozen=True)
class Place:
    """Where one part of a collection lies, and all that the user said about reading it.

    Attributes:
        path: the path as the user wrote it, for messages.
        roots: its folders or files, at least one.
        annotations: annotation files that the user named: absolute, or relative to the root; empty: the format finds its own.
        classes: label order given by another part of the same collection; a label outside it is a problem.
        object_classes: likewise for ``Sample.classes``.
        problems: where bad annotations are told.
    """

    path: str
    roots: tuple[Path, ...] = ()
    columns: Columns = field(default_factory=Columns)
    annotations: tuple[str, ...] = ()
    classes: list[str] | None = None
    object_classes: list[str] | None = None
    problems: Problems = field(default_factory=Problems)

    @property
    def root(self) -> Path:
        return self.roots[0]

    def files(self, suffix: str) -> list[Path]:
        """The roots that are files, and the files below the others that end in ``.suffix``, sorted within each root.

        Raises:
            ValueError: there is none.
        """
        found = [file for root in self.roots for file in ([root] if root.is_file() else _below(root, suffix))]
        if not found:
            raise ValueError(f"data.path {self.path} holds no .{suffix} file; give another path, or set data.format auto")
        return found

    def at(self, *roots: Path) -> Place:
        """The same, elsewhere."""
        return replace(self, roots=roots)


def _below(root: Path, suffix: str) -> list[Path]:
    return [Path(entry.path) for entry in walk(root) if entry.name.lower().endswith(f".{suffix}")]


@dataclass(frozen=True)
class Format:
    """One way in which collections are written down. Each source's file holds one as ``FORMAT``; ``collection.py`` lists the files.

    Attributes:
        name: what ``data.format`` calls it.
        claims: whether the place is certainly written so, told by its content, cheaply; never an exception. A folder's own split
            (``train`` and ``val`` inside) has been tried apart: the place is one part, or a whole with the format's own split.
        open: the sources by part: {"all": source}, or "train" and "val" or "test" where the format brings its own split.
            ValueError in one line: what was given, what is allowed, what to do.
    """

    name: str
    claims: Callable[[Place], bool]
    open: Callable[[Place], dict[str, Source]]


class Part(Source):
    """The pictures of ``whole`` whose indices are listed, in that order."""

    def __init__(self, whole: Source, indices: NDArray[np.int64]) -> None:
        self.whole, self.indices = whole, indices
        self.classes, self.object_classes = whole.classes, whole.object_classes
        self.object_ids, self.stuff = whole.object_ids, whole.stuff
        self.several, self.numbers = whole.several, whole.numbers
        self.prefers_blocks = whole.prefers_blocks
        if whole.block_ends is not None:  # indices rise: a block's samples stay together
            ends = np.searchsorted(indices, whole.block_ends)
            self.block_ends = np.unique(ends[ends > 0]).astype(np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.whole[int(self.indices[index])]

    def worded(self, index: int) -> Sample:
        return self.whole.worded(int(self.indices[index]))

    def name(self, index: int) -> str:
        return self.whole.name(int(self.indices[index]))

    def names(self) -> Any:
        return self.whole.names().take(pa.array(self.indices))


@dataclass(frozen=True)
class Renumbered:
    """A ``Deferred`` semantic mask whose class ``k`` is number ``moves[k]`` of ``classes`` (None: all stay)."""

    semantic: Tensor | Deferred
    moves: list[int] | None
    classes: int

    def decode(self, objects: slice = slice(None)) -> Tensor:
        """As ``Sample.semantic``; errors as those of the mask."""
        own_HW = self.semantic if isinstance(self.semantic, Tensor) else self.semantic.decode()
        unknown_HW = own_HW == 255 if own_HW.dtype == torch.uint8 else own_HW < 0
        numbers_HW = own_HW.long().masked_fill(unknown_HW, 0)
        if self.moves is not None:
            numbers_HW = torch.tensor(self.moves)[numbers_HW]
        few = self.classes <= 255
        return numbers_HW.masked_fill(unknown_HW, 255 if few else -1).to(torch.uint8 if few else torch.int16)


class Joined(Source):
    """All pictures of several sources, one source after the other; class numbers go by the names of the classes.

    Where some sources have names, the numbers of those without mean nothing and are left out.
    """

    def __init__(self, parts: Sequence[Source]) -> None:
        self.parts = list(parts)
        self.classes, self._labels = _union([part.classes for part in self.parts])
        self.object_classes, self._objects = _union([part.object_classes for part in self.parts])
        self.object_ids, self.stuff = joined_ids(self.object_classes, self.parts), joined_stuff(self.object_classes, self.parts)
        self.several = any(part.several for part in self.parts)
        counts = {part.numbers for part in self.parts}
        self.numbers = counts.pop() if len(counts) == 1 else 0
        self._ends = list(accumulate(len(part) for part in self.parts))
        self.prefers_blocks = any(part.prefers_blocks for part in self.parts)
        if any(part.block_ends is not None for part in self.parts):
            starts = [0, *self._ends]
            own = [part.block_ends if part.block_ends is not None else np.array([len(part)]) for part in self.parts]
            self.block_ends = np.concatenate([ends + start for ends, start in zip(own, starts, strict=False)]).astype(np.int64)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        part, inner = self._locate(index)
        sample = replace(self.parts[part][inner])  # a copy: the part may keep its own
        labels, objects = self._labels[part], self._objects[part]
        if labels is not None and sample.label is not None:
            sample.label = labels[sample.label] if labels else None
        sample.values = self._values(sample, labels)
        if self.several:
            sample.label = None
        if objects is not None and sample.classes is not None:
            sample.classes = sample.classes.new_tensor(objects)[sample.classes] if objects else None
        if sample.semantic is not None and self.object_classes and (objects is not None or len(self.object_classes) > 255):
            sample.semantic = Renumbered(sample.semantic, objects, len(self.object_classes)) if objects != [] else None
        return sample

    def worded(self, index: int) -> Sample:
        part, inner = self._locate(index)
        return self.parts[part].worded(inner)

    def name(self, index: int) -> str:
        part, inner = self._locate(index)
        return self.parts[part].name(inner)

    def names(self) -> Any:
        return pa.concat_arrays([part.names() for part in self.parts])

    def _values(self, sample: Sample, labels: list[int] | None) -> Tensor | None:
        """Of several classes those of all parts, also where a part has one class for each sample."""
        if not self.several:
            return sample.values if self.numbers else None
        every = torch.zeros(len(self.classes or []))
        if sample.values is not None:
            places = torch.arange(len(sample.values)) if labels is None else torch.tensor(labels, dtype=torch.int64)
            return every.index_copy_(0, places, sample.values)
        return None if sample.label is None else every.index_fill_(0, torch.tensor([sample.label]), 1.0)

    def _locate(self, index: int) -> tuple[int, int]:
        which = bisect.bisect_right(self._ends, index)
        return which, index - (self._ends[which - 1] if which else 0)


def _union(lists: list[list[str] | None]) -> tuple[list[str] | None, list[list[int] | None]]:
    """All class names in order of first appearance, and for each list where its numbers go (None: they stay; empty: nowhere)."""
    known = [names for names in lists if names is not None]
    union = list(dict.fromkeys(name for names in known for name in names))
    moves: list[list[int] | None] = []
    for names in lists:
        stay = names == union[: len(names)] if names is not None else not union
        moves.append(None if stay else [union.index(name) for name in names or []])
    return union or None, moves
