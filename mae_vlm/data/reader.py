"""Draws to a batch, within a loader's worker: read, decode, crop, stack; a broken picture is replaced, never dropped."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mae_vlm.data.cache import PixelCache
from mae_vlm.data.collate import Ready, collate, sample_key
from mae_vlm.data.decode import decode, to_channels
from mae_vlm.data.sampler import Draw
from mae_vlm.data.sources.base import Source
from mae_vlm.types import Batch, Sample

_MOST_BROKEN, _SHARE_BROKEN = 10, 0.001


class Reader(Dataset[Batch]):
    """``reader[draws]`` is the batch of those draws: one sampler item is one batch, so the DataLoader's batch_size is None.

    ``transform(image_CHW, key)`` brings each picture to its final size. A picture that cannot be read is replaced by the next one
    that can (the same in every run), with one warning that names it.

    Raises:
        ValueError: more than 10 pictures and more than 0.1 % of the collection are broken, as one worker sees it.
    """

    def __init__(
        self, source: Source, transform: Callable[[Tensor, int], Tensor], seed: int, channels: int, cache: PixelCache | None = None
    ) -> None:
        self.source, self.transform, self.seed, self.channels, self.cache = source, transform, seed, channels, cache
        self._broken: dict[int, str] = {}
        self._known: dict[int, Sample] = {}  # what goes with the cached pixels: id, label and captions

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, draws: list[Draw]) -> Batch:
        return collate([self._ready(draw) for draw in draws], draws)

    def _ready(self, draw: Draw) -> Ready:
        """The sample of a draw with its key and final pixels, or its substitute's."""
        for step in range(len(self.source)):
            index = (draw.index + step) % len(self.source)
            if index in self._broken:
                continue
            try:
                return self._prepare(index, draw.epoch)
            except (ValueError, OSError) as error:
                self._note(index, error)
        raise ValueError(f"none of the {len(self.source)} pictures can be read; the last: {list(self._broken.values())[-1]}")

    def _prepare(self, index: int, epoch: int) -> Ready:
        sample, pixels = self._cached(index) if self.cache else self._read(index)
        key = sample_key(self.seed, epoch, sample.id)
        return Ready(sample, key, self.transform(pixels, key))

    def _read(self, index: int) -> tuple[Sample, Tensor]:
        sample = self.source[index]
        return sample, self._pixels(sample)

    def _cached(self, index: int) -> tuple[Sample, Tensor]:
        """As ``_read``, with the pixels that any worker has decoded before and the words that this one has read before."""
        assert self.cache is not None
        pixels, known = self.cache.get(index), self._known.get(index)
        if known is None or pixels is None:
            sample = self.source[index]
            known = self._known[index] = Sample(sample.id, b"", sample.label, sample.captions)
            if pixels is None:
                pixels = self._pixels(sample)
                self.cache.put(index, pixels)
        return known, pixels

    def _pixels(self, sample: Sample) -> Tensor:
        if isinstance(sample.image, Tensor):
            return to_channels(sample.image, self.channels)
        data = sample.image.read_bytes() if isinstance(sample.image, Path) else sample.image
        return decode(data, self.channels, sample.id)

    def _note(self, index: int, error: Exception) -> None:
        self._broken[index] = f"{error}"
        warnings.warn(f"broken picture replaced by the next one: {error}", RuntimeWarning, stacklevel=2)
        if len(self._broken) > max(_MOST_BROKEN, _SHARE_BROKEN * len(self.source)):
            raise ValueError(
                f"{len(self._broken)} of {len(self.source)} pictures are broken, more than 10 and 0.1 %; the last: {error}; "
                "remove or repair them"
            )


def one_thread(worker: int) -> None:
    """Start of a loader's worker: torch's own threads stay out of the way of the other workers."""
    torch.set_num_threads(1)
