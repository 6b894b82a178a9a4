"""Draws to a batch, within a loader's worker: read, decode, crop, stack; a broken picture is replaced, never dropped."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mae_vlm.data.cache import PixelCache
from mae_vlm.data.collate import Ready, collate, sample_key
from mae_vlm.data.decode import Form, Picture
from mae_vlm.data.mirrored import mirrored
from mae_vlm.data.sampler import Draw
from mae_vlm.data.sources.base import Source
from mae_vlm.data.targets import target_of
from mae_vlm.data.transforms import Crop, Transform, apply, filled
from mae_vlm.tokens.chance import key_of
from mae_vlm.types import Batch, Broken, Sample

_SECOND = 2  # the key of a picture's second crop is made from its own and this
_FEW = 10  # broken pictures that stop no run


def most_broken(length: int, share: float) -> int:
    """How many of ``length`` pictures may be broken: a share of them, and at least 10."""
    return max(_FEW, int(share * length))


_PATIENCE = 16  # so many broken ones in a row, and the disk is gone, not a picture
_GRACE = 25.0  # seconds that a worker lives on after a signal: a run that is told to stop has 30


class Reader(Dataset[Batch]):
    """``reader[draws]`` is the batch of those draws: one sampler item is one batch, so the DataLoader's batch_size is None.

    ``transform`` brings each picture to its final size: it chooses the crop from the header, and no more than that is decoded, unless
    a ``cache`` keeps whole pictures. A picture that cannot be read is replaced by the next one
    that can (the same for every worker and in every run) and told in ``Batch.broken``, each time that it is drawn. Whether there are
    too many is for the run to judge, with what the other workers found.

    Args:
        patience: broken pictures in a row that are passed over to find a substitute; after more of them, as when a disk is gone, the
            last good picture stands in, so that the run lives long enough to say why it stops.
        substitutes_count: whether a substitute is ``real``: in training, but not where each picture counts once.
        bits, value_range: as in :class:`mae_vlm.data.form.Form`.
        wants: what ``Batch.targets`` holds, of boxes, masks and semantic; nothing else is decoded.

    Raises:
        ValueError: no picture can be read.
    """

    def __init__(
        self,
        source: Source,
        transform: Transform,
        seed: int,
        channels: int,
        cache: PixelCache | None = None,
        patience: int | None = None,
        substitutes_count: bool = True,
        bits: int = 8,
        value_range: tuple[float, float] | None = None,
        wants: frozenset[str] = frozenset(),
    ) -> None:
        self.wants = wants
        self.second = False  # whether another crop of each picture goes with it
        self.augment: Callable[[Tensor, int], Tensor] | None = None  # of the final pixels and the sample's key
        self.source, self.transform, self.seed, self.cache = source, transform, seed, cache
        self.form = Form(channels, bits, value_range)
        self.patience, self.substitutes_count = len(source) if patience is None else min(_PATIENCE, patience), substitutes_count
        self._broken: dict[int, Broken] = {}
        self._last: Ready | None = None
        self._known: dict[int, Sample] = {}  # what goes with the cached pixels: id, label and captions

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, draws: list[Draw]) -> Batch:
        broken: dict[int, Broken] = {}
        ready = [self._ready(draw, broken) for draw in draws]
        self._last = ready[-1]
        return collate(ready, draws, list(broken.values()))

    def _ready(self, draw: Draw, broken: dict[int, Broken]) -> Ready:
        """The sample of a draw with its key and final pixels, or its substitute's; what had to be passed over goes to ``broken``."""
        if draw.index in self._broken:
            broken[draw.index] = self._broken[draw.index]
        tried = 0
        for step in range(len(self.source)):
            index = (draw.index + step) % len(self.source)
            if index in self._broken:
                continue
            try:
                return self._prepare(index, draw.epoch)._replace(counts=self.substitutes_count or not step)
            except (ValueError, OSError, MemoryError) as error:
                broken[index] = self._why(index, error)
                if isinstance(error, ValueError | FileNotFoundError):  # another OSError may be over the next time
                    self._broken[index] = broken[index]
            tried += 1
            if tried > self.patience and self._last is not None:
                return self._last._replace(counts=self.substitutes_count)
        last = list((self._broken | broken).values())[-1]
        raise ValueError(f"none of the {len(self.source)} pictures can be read; the last: {last.id}: {last.reason}")

    def _why(self, index: int, error: Exception) -> Broken:
        try:
            name = self.source.name(index)
        except (ValueError, OSError):  # a table reads its names when first asked for one, and may be gone
            name = f"number {index}"
        if isinstance(error, FileNotFoundError):
            return Broken(name, "the file is gone; bring it back, or start again without it")
        return Broken(name, " ".join(str(error).split()).removeprefix(f"{name}: "))

    def _prepare(self, index: int, epoch: int) -> Ready:
        cut: Callable[[Crop], Tensor]
        if self.cache:
            sample, pixels = self._cached(index)
            (height, width), cut = pixels.shape[1:], partial(apply, pixels)
        else:
            sample = self.source[index]
            picture = Picture(sample.image, self.form, sample.id)
            height, width, cut = picture.height, picture.width, picture.crop
        key = sample_key(self.seed, epoch, sample.id)
        crop = self.transform.plan(height, width, key)
        target = target_of(sample, crop, height, width, self.wants) if self.wants else None
        final_CHW = filled(cut(crop), crop)
        if self.augment is not None:
            final_CHW = self.augment(final_CHW, key)
        other = self.transform.plan(height, width, key_of(key, _SECOND)) if self.second else None
        second_CHW = None if other is None else filled(cut(other), other)
        ready = Ready(mirrored(sample) if crop.mirrored else sample, key, final_CHW, target=target, second_CHW=second_CHW)
        return ready if sample.partner is None else self._paired(ready, sample.partner, crop.mirrored)

    def _paired(self, ready: Ready, image: bytes | Tensor | Path, mirrored: bool) -> Ready:
        """With the right one of a pair, cropped by the same key; a mirrored pair has changed places too."""
        picture = Picture(image, self.form, ready.sample.id)
        crop = self.transform.plan(picture.height, picture.width, ready.key)
        partner_CHW = filled(picture.crop(crop), crop)
        if self.augment is not None:
            partner_CHW = self.augment(partner_CHW, ready.key)
        left_CHW, right_CHW = (partner_CHW, ready.pixels_CHW) if mirrored else (ready.pixels_CHW, partner_CHW)
        return ready._replace(pixels_CHW=left_CHW, partner_CHW=right_CHW)

    def _cached(self, index: int) -> tuple[Sample, Tensor]:
        """The whole picture, which any worker may have decoded before, and the words that this one may have read before."""
        assert self.cache is not None
        pixels, known = self.cache.get(index), self._known.get(index)
        if known is None or pixels is None:
            sample = self.source[index]
            words = Sample(sample.id, b"", sample.label, sample.captions, sample.questions, values=sample.values)
            known = self._known[index] = replace(sample, image=b"") if self.wants else words
            if pixels is None:
                pixels = Picture(sample.image, self.form, sample.id).pixels()
                self.cache.put(index, pixels)
        return known, pixels


def start_worker(worker: int) -> None:
    """Start of a loader's worker: torch's own threads stay out of the way of the other workers, and signals are the main process's affair.

    A terminal or a scheduler sends SIGINT, SIGTERM and SIGUSR1 to the workers too; a worker that died of it would take the run along before
    the run could save itself. It goes on for long enough, then ends.
    """
    torch.set_num_threads(1)
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _end_later)


def _end_later(number: int, frame: Any) -> None:
    if not any(isinstance(one, threading.Timer) for one in threading.enumerate()):
        timer = threading.Timer(_GRACE, os._exit, (0,))
        timer.daemon = True
        timer.start()
