"""The pictures of a source in batches, prepared by worker processes; what cannot be read is told and left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mae_vlm.data.decode import Form, Picture
from mae_vlm.data.reader import start_worker
from mae_vlm.data.sources.base import Source
from mae_vlm.data.sources.image_folder import ImageFolder
from mae_vlm.data.transforms import Resize
from mae_vlm.types import Broken, Sample


class Read(NamedTuple):
    """Pictures that could be read, uint8 or uint16 ``[B, C, H, W]``, the number of each in the source, its label or -1, and the others."""

    images_BCHW: Tensor
    numbers: list[int]
    labels: list[int]
    broken: list[Broken]


class _Batches(Dataset[Read]):
    def __init__(self, source: Source, numbers: NDArray[np.int64], size: int, pixels: tuple[int, int], form: Form) -> None:
        self.source, self.numbers, self.size, self.form = source, numbers, size, form
        self.pixels, self.resize = pixels, Resize(pixels)

    def __len__(self) -> int:
        return -(-len(self.numbers) // self.size)

    def __getitem__(self, place: int) -> Read:
        images, found, labels, broken = [], [], [], []
        for number in self.numbers[place * self.size : (place + 1) * self.size].tolist():
            try:
                sample = self.source[number]
                images.append(self._pixels(sample))
                found.append(number)
                labels.append(-1 if sample.label is None else sample.label)
            except (ValueError, OSError, MemoryError) as problem:
                name = self.source.name(number)
                broken.append(Broken(name, " ".join(str(problem).split()).removeprefix(f"{name}: ")))
        return Read(torch.stack(images) if images else torch.zeros(0, self.form.channels or 3, *self.pixels), found, labels, broken)

    def _pixels(self, sample: Sample) -> Tensor:
        picture = Picture(sample.image, self.form, sample.id)
        return picture.crop(self.resize.plan(picture.height, picture.width))


def batches(source: Source, numbers: NDArray[np.int64], size: int, pixels: tuple[int, int], form: Form, workers: int) -> Iterator[Read]:
    """The pictures of these numbers at ``pixels`` (height, width), ``size`` at a time, in their order."""
    held = _Batches(source, numbers, size, pixels, form)
    yield from DataLoader(held, batch_size=None, num_workers=workers, collate_fn=_as_it_is, worker_init_fn=start_worker)


def stamps(source: ImageFolder) -> NDArray[np.int64]:
    """For each picture a number that changes when its file is written anew (size and time of writing); -1 where it is gone."""
    found = np.full(len(source), -1, dtype=np.int64)
    for number in range(len(source)):
        try:
            told = (source.root / source.name(number)).stat()
        except OSError:
            continue
        found[number] = (told.st_mtime_ns * 1_000_003 + told.st_size) & (2**63 - 1)
    return found


def _as_it_is(read: Any) -> Any:
    return read
