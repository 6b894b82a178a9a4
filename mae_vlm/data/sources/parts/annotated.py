"""Pictures that a list names, with all that is written about them: the one source behind COCO, Pascal VOC and mask folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from mae_vlm.data.sources.base import NamedFiles
from mae_vlm.data.sources.parts.files import check_regular
from mae_vlm.data.sources.parts.objects import Objects
from mae_vlm.data.sources.parts.word_columns import encodable
from mae_vlm.types import Sample


class Pixels(Protocol):
    """Where the masks of a source are."""

    def fill(self, sample: Sample, index: int) -> None:
        """Sets ``masks`` and ``semantic``, not decoded, where the picture has them."""
        ...


class Captions:
    """Sentences by picture: those of picture ``i`` are ``ends[i - 1]`` to ``ends[i]`` of one Arrow array."""

    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        self._texts = pa.array([list(map(encodable, of_one)) for of_one in texts], pa.large_list(pa.large_string()))

    def fill(self, sample: Sample, index: int) -> None:
        sample.captions = tuple(self._texts[index].as_py())


class Annotated(NamedFiles):
    """The pictures ``names`` below ``root``, each with its objects, captions and masks where there are any.

    Names are relative to ``root`` or absolute, and are the samples' ids; they are kept in one Arrow array.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        object_classes: list[str] | None,
        objects: Objects | None = None,
        captions: Captions | None = None,
        pixels: Pixels | None = None,
    ) -> None:
        self.root, self.object_classes = root, object_classes
        self._names = pa.array([os.fsencode(name) for name in names], pa.large_binary())
        self._parts = [part for part in (objects, captions, pixels) if part is not None]

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        name = self.name(index)
        sample = Sample(name, read_picture(self.root / name))
        for part in self._parts:
            part.fill(sample, index)
        return sample

    def worded(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        sample = Sample(self.name(index), b"")
        for part in self._parts:
            if isinstance(part, Captions):
                part.fill(sample, index)
        return sample


def read_picture(file: Path) -> bytes | Path:
    """The encoded file; a TIFF stays a path, for it may be too large to be read whole.

    Raises:
        ValueError: no regular file.
    """
    check_regular(file)
    return file if file.suffix.lower() in (".tif", ".tiff") else file.read_bytes()
