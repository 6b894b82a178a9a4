"""Which of the validation pictures are looked at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mae_vlm.data.sampler import Shuffle, permuted
from mae_vlm.tokens.chance import key_of


class Selection(Shuffle):
    """``count`` of ``total`` pictures by chance, in their own order; all where there are not more.

    Not the first ones: many collections are sorted by class.
    """

    def __init__(self, total: int, count: int, seed: int) -> None:
        self.length = min(total, count)
        places = np.arange(self.length, dtype=np.int64)
        self._chosen = np.sort(permuted(places, total, key_of(seed, total))) if count < total else places

    def __call__(self, epoch: int, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self._chosen[positions], np.zeros_like(positions)
