"""Mean and deviation of each channel, summed up in whole numbers: exact, and the same in any order."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Sums = tuple[int, list[int], list[int]]  # pixels, sum of each channel, sum of squares of each channel


@dataclass
class Moments:
    """Counts, sums and sums of squares of pixel values by the number of channels that pictures have.

    ``sums`` are Python's integers; ``highest`` is the value that stands for 1.0: 255, or 65535 once a picture of 16 bits was there.
    """

    sums: dict[int, Sums] = field(default_factory=dict)
    highest: int = 255

    def add(self, image_CHW: Tensor) -> None:
        """One picture of 8 or 16 bits."""
        values_CN = image_CHW.reshape(image_CHW.shape[0], -1).numpy()
        first, second = zip(*(_sums(channel_N) for channel_N in values_CN), strict=True)
        one = Moments({len(values_CN): (values_CN.shape[1], list(first), list(second))}, 255 if values_CN.dtype == np.uint8 else 65535)
        self.merge(one)

    def merge(self, other: Moments) -> None:
        """All that ``other`` has seen; among 16 bits, 8 count as 257 times their value."""
        highest = max(self.highest, other.highest)
        self.sums, self.highest = self._scaled(highest), highest
        for channels, (count, first, second) in other._scaled(highest).items():
            self._merge(channels, count, first, second)

    def _scaled(self, highest: int) -> dict[int, Sums]:
        scale = highest // self.highest
        if scale == 1:
            return self.sums
        return {own: (count, [scale * a for a in one], [scale**2 * a for a in two]) for own, (count, one, two) in self.sums.items()}

    def _merge(self, channels: int, count: int, first: list[int], second: list[int]) -> None:
        known = self.sums.get(channels, (0, [0] * channels, [0] * channels))
        self.sums[channels] = (
            known[0] + count,
            [a + b for a, b in zip(known[1], first, strict=True)],
            [a + b for a, b in zip(known[2], second, strict=True)],
        )

    def mean_and_deviation(self) -> tuple[list[float], list[float]]:
        """For each channel, in [0, 1], over all pixels; grey pictures among coloured ones count as their three equal channels.

        Raises:
            ValueError: no picture was added, or pictures of other than 1 and 3 channels are mixed.
        """
        if not self.sums:
            raise ValueError("no picture could be read; there is no mean")
        channels = max(self.sums)
        if len(self.sums) > 1 and set(self.sums) != {1, 3}:
            raise ValueError(f"pictures of {', '.join(map(str, sorted(self.sums)))} channels are mixed; give a folder of one kind")
        total = Moments(highest=self.highest)
        for own, (count, first, second) in self.sums.items():
            total._merge(channels, count, first * (channels // own), second * (channels // own))
        count, first, second = total.sums[channels]
        means = [one / count for one in first]
        deviations = [math.sqrt(max(0, count * two - one * one)) / count for one, two in zip(first, second, strict=True)]
        return [one / self.highest for one in means], [one / self.highest for one in deviations]


def _sums(values_N: NDArray[Any]) -> tuple[int, int]:
    """Sum and sum of squares, exact, by counting how often each value comes: one pass, whatever the size."""
    counts = np.bincount(values_N.astype(np.uint16, copy=False))
    values = np.arange(len(counts), dtype=np.int64)
    return int(counts @ values), int(counts @ (values * values))
