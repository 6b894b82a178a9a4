"""What a collection holds, in a few numbers, and the automatic choices that follow from them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from mae_vlm.data.decode import Form, Header, Picture, header
from mae_vlm.data.sources.base import Source
from mae_vlm.data.targets import BACKGROUND, BOXES, MASKS, SEMANTIC
from mae_vlm.data.transforms import Resize
from mae_vlm.types import Sample

_HEADERS = 64  # pictures looked at
_LOOK = 64  # pixels a side, for means
_SMALL = 96  # pictures up to this side are learned at their own size, larger ones at _USUAL
_USUAL = 224
_BATCH = 256


@dataclass(frozen=True)
class Summary:
    """Counts, typical size and classes of a collection, before anything is built.

    ``height``, ``width`` (pixels, medians), ``channels`` (1 if all are grey, else 3, or the bands) and ``bits`` (16 if most have more
    than 8, else 8) come from the headers of up to 64 training pictures spread over the collection; ``moments``, the mean and deviation
    of each channel scaled to [0, 1], from their pixels, where they are not plain grey or RGB of 8 bits. ``split`` says in words where
    the validation pictures come from. ``several``: pictures have several classes each; ``numbers``: or numbers to learn, and the mean and
    deviation of each of these in the pictures looked at. ``object_ids`` are the collection's own numbers of the object classes, ``stuff``
    those of them that are no things, where it says so.
    """

    path: str | None
    format: str
    train: int
    val: int
    test: int
    height: int
    width: int
    channels: int
    classes: list[str] | None
    split: str
    bits: int = 8
    moments: tuple[list[float], list[float]] | None = None
    object_classes: list[str] | None = None
    known: frozenset[str] = frozenset()
    several: bool = False
    numbers: tuple[list[float], list[float]] | None = None
    object_ids: list[int] | None = None
    stuff: list[str] | None = None

    @property
    def semantic_classes(self) -> list[str] | None:
        """Names of the numbers in semantic maps: the collection's own, or those painted from masks of objects, background first."""
        if self.object_classes is None or SEMANTIC in self.known:
            return self.object_classes
        return [BACKGROUND, *self.object_classes] if MASKS in self.known else None

    def describe(self) -> str:
        """One line for the log."""
        classes = f", {len(self.classes)} classes{', several a picture' * self.several}" if self.classes else ""
        classes += f", {len(self.numbers[0])} numbers to learn" if self.numbers else ""
        counts = f"{self.train:,} training, {self.val:,} validation, {self.test:,} test pictures"
        look = f"{self.height} x {self.width} (median), {self.channels} channels{' of 16 bits' * (self.bits > 8)}{classes}"
        return f"data: {self.path or 'generated scenes'}: {counts}, {look}; validation: {self.split}"


def summarise(
    sources: dict[str, Source], path: str | None, format: str, split: str, wanted: tuple[int | None, int | None, tuple[float, float] | None]
) -> Summary:
    """The summary of the parts of a collection; ``wanted`` are the channels, bits and value range that the user set.

    Raises:
        ValueError: no picture can be read.
    """
    train = sources["train"]
    headers, known = _looked_at(train)
    height, width, channels, bits = _typical(headers)
    form = Form(wanted[0] or channels, wanted[1] or bits, wanted[2])
    counts = {part: len(sources[part]) if part in sources else 0 for part in ("train", "val", "test")}
    return Summary(
        path=path,
        format=format,
        **counts,
        height=height,
        width=width,
        channels=channels,
        classes=train.classes,
        split=split,
        bits=bits,
        moments=None if form in (Form(1), Form(3)) else channel_moments(train, form),
        object_classes=train.object_classes,
        object_ids=train.object_ids,
        stuff=train.stuff,
        known=known,
        several=train.several,
        numbers=_moments(train) if train.numbers else None,
    )


def _moments(source: Source) -> tuple[list[float], list[float]]:
    """Mean and deviation of each number to learn, of samples spread over the source."""
    told = [torch.zeros(source.numbers), torch.ones(source.numbers)]
    seen = [values for values in map(_values_of, [source] * _HEADERS, _spread(source)) if values is not None]
    if len(seen) > 1:
        told = [torch.stack(seen).mean(0), torch.stack(seen).std(0)]
    return [round(value, 6) for value in told[0].tolist()], [round(value, 6) or 1.0 for value in told[1].tolist()]


def _values_of(source: Source, index: int) -> Tensor | None:
    try:
        return source[index].values
    except (ValueError, OSError):
        return None  # the reader names it


def _looked_at(source: Source) -> tuple[list[Header], frozenset[str]]:
    """Headers of pictures spread evenly over the source, and what their samples have beside the picture; broken ones are passed over.

    Raises:
        ValueError: none of them can be read.
    """
    seen: list[Header] = []
    known: set[str] = set()
    failure: Exception | None = None
    places = _spread(source)
    for index in places:
        try:
            sample = source[index]
            known |= {name for name in ("captions", "questions", "partner", BOXES, MASKS, SEMANTIC) if _there(getattr(sample, name))}
            known |= {"choices"} if any(question.choices for question in sample.questions) else set()
            seen.append(_header_of(sample))
        except (ValueError, OSError) as error:
            failure = error
    if not seen:
        raise ValueError(f"none of {len(places)} pictures looked at can be read; the last: {failure}")
    return seen, frozenset(known)


def _there(value: Any) -> bool:
    return value is not None and (not isinstance(value, tuple) or len(value) > 0)


def _typical(seen: list[Header]) -> tuple[int, int, int, int]:
    """Median height and width, the channels and the bits (8 or 16) of these pictures."""
    channels = max(found.channels for found in seen)
    bits = 16 if 2 * sum(found.bits > 8 for found in seen) > len(seen) else 8
    return int(median(found.height for found in seen)), int(median(found.width for found in seen)), channels, bits


def channel_moments(source: Source, form: Form) -> tuple[list[float], list[float]] | None:
    """Mean and deviation of each channel, of pixels scaled to [0, 1], in pictures spread evenly over the source.

    Their centres are looked at, at 64 x 64 pixels. None where no picture can be read.
    """
    seen: list[Tensor] = []
    for index in _spread(source):
        try:
            sample = source[index]
            picture = Picture(sample.image, form, sample.id)
            crop = Resize((_LOOK, _LOOK)).plan(picture.height, picture.width)._replace(exact=False)
            seen.append(picture.crop(crop).double().flatten(1) / (2**form.bits - 1))
        except (ValueError, OSError):
            continue  # the reader names it
    if not seen:
        return None
    values_CN = torch.cat(seen, dim=1)
    deviation = values_CN.std(dim=1).clamp_min(1e-3)  # of an empty channel
    return [round(value, 4) for value in values_CN.mean(dim=1).tolist()], [round(value, 4) for value in deviation.tolist()]


def _spread(source: Source) -> list[int]:
    count = min(_HEADERS, len(source))
    return [number * len(source) // count for number in range(count)]


def _header_of(sample: Sample) -> Header:
    if isinstance(sample.image, Tensor):
        channels, height, width = sample.image.shape
        return Header(height, width, channels, "pixels")
    return header(sample.image, sample.id)


def automatic_size(height: int, width: int, usual: int = _USUAL) -> tuple[int, int]:
    """(height, width) to learn at: the typical size down to a multiple of 4 where no side is over 96 pixels, else a ``usual`` square."""
    if max(height, width) > _SMALL:
        return usual, usual
    return max(8, height // 4 * 4), max(8, width // 4 * 4)


def automatic_batch_size(train: int, parts: int = 1, usual: int = _BATCH) -> int:
    """``usual`` pictures per step, halved for small collections so that an epoch has 4 steps, a multiple of ``parts``."""
    size = usual
    while size > 8 and size * 4 > train:
        size //= 2
    return max(parts, min(-(-size // parts), train // parts) * parts)


def automatic_workers(processes: int = 1) -> int:
    """Loader workers for each of ``processes`` on this machine: its share of the cores we may use, from 1 to 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores // processes))
