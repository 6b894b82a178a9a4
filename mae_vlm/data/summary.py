"""What a collection holds, in a few numbers, and the automatic choices that follow from them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from torch import Tensor

from mae_vlm.data.decode import Header, header
from mae_vlm.data.sources.base import Source

_HEADERS = 64  # pictures looked at
_SMALL = 96  # pictures up to this side are learned at their own size, larger ones at _USUAL
_USUAL = 224
_BATCH = 256


@dataclass(frozen=True)
class Summary:
    """Counts, typical size and classes of a collection, before anything is built.

    ``height``, ``width`` (pixels, medians) and ``channels`` (1 if all are grey, else 3) come from the headers of up to 64 training
    pictures spread over the collection. ``split`` says in words where the validation pictures come from.
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

    def describe(self) -> str:
        """One line for the log."""
        classes = f", {len(self.classes)} classes" if self.classes else ""
        counts = f"{self.train:,} training, {self.val:,} validation, {self.test:,} test pictures"
        look = f"{self.height} x {self.width} (median), {self.channels} channels{classes}"
        return f"data: {self.path or 'generated scenes'}: {counts}, {look}; validation: {self.split}"


def typical_size(source: Source) -> tuple[int, int, int]:
    """Median height and width, and the channels, of pictures spread evenly over the source; broken ones are passed over.

    Raises:
        ValueError: none of them can be read.
    """
    count = min(_HEADERS, len(source))
    seen: list[Header] = []
    failure: Exception | None = None
    for number in range(count):
        try:
            seen.append(_header_of(source, number * len(source) // count))
        except (ValueError, OSError) as error:
            failure = error
    if not seen:
        raise ValueError(f"none of {count} pictures looked at can be read; the last: {failure}")
    channels = max(found.channels for found in seen)
    return int(median(found.height for found in seen)), int(median(found.width for found in seen)), channels


def _header_of(source: Source, index: int) -> Header:
    sample = source[index]
    if isinstance(sample.image, Tensor):
        channels, height, width = sample.image.shape
        return Header(height, width, channels, "pixels")
    data = sample.image.read_bytes() if isinstance(sample.image, Path) else sample.image
    return header(data, sample.id)


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
