"""A weighted mixture of collections: in every stretch of training each has its share, and no sample repeats before all were seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mae_vlm.data.sampler import Shuffle
from mae_vlm.data.sources.base import Source
from mae_vlm.types import Sample


class Mixture(Shuffle):
    """Draws from ``parts``, whose samples stand one part after the other, in proportion to ``weights``.

    An epoch holds each part's exact share (rounded by largest remainders), laid out evenly: draw j of the k that a part has in an epoch
    belongs at (j + 1/2) / k of it, so every batch holds the mixture too. A part's draws are one endless sequence that goes on over
    epochs, pass after pass, each pass shuffled by the part's own ``Shuffle``; ``Draw.epoch`` is the number of that pass.

    A stretch of n positions costs O(n + parts), wherever it lies. Positions asked for at once should lie close together.

    Args:
        length: positions of an epoch.

    Raises:
        ValueError: a weight is so small that its part would never be drawn.
    """

    def __init__(self, parts: Sequence[Shuffle], weights: Sequence[float], length: int) -> None:
        self.parts, self.length = list(parts), length
        self.shares = shares(weights, length)
        if 0 in self.shares:
            raise ValueError(
                f"data.mixture: of weights {', '.join(f'{one:g}' for one in weights)}, {min(weights):g} is less than one of the {length} "
                "draws of an epoch; raise it, or leave that collection out"
            )
        self._starts = np.cumsum([0, *(part.length for part in self.parts)])

    def __call__(self, epoch: int, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        which, turns = self._laid(int(positions.min()), int(positions.max()) + 1)
        which, turns = which[positions - positions.min()], turns[positions - positions.min()]
        indices, passes = np.empty_like(positions), np.empty_like(positions)
        for number, part in enumerate(self.parts):
            here = np.flatnonzero(which == number)
            place = epoch * self.shares[number] + turns[here]
            passes[here] = place // part.length
            for one in np.unique(passes[here]).tolist():
                drawn = here[passes[here] == one]
                indices[drawn] = self._starts[number] + part(one, (epoch * self.shares[number] + turns[drawn]) % part.length)[0]
        return indices, passes

    def _laid(self, begin: int, end: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(part, its draw's number in the epoch) at each position of ``[begin, end)``.

        Up to a time t in [0, 1] the parts have together t * length draws, give or take half a draw each. So the draws within a window
        that is wider by as many on both sides, sorted by time, hold all that are asked for.
        """
        slack = len(self.parts)
        window = np.array([begin - slack, end + slack]) / self.length
        before, until = (np.ceil(np.clip(np.outer(window, self.shares) - 0.5, 0, self.shares))).astype(np.int64)
        which = np.repeat(np.arange(slack), until - before)
        turns = np.concatenate([np.arange(first, last) for first, last in zip(before, until, strict=True)])
        times = (2 * turns + 1) / (2 * np.array(self.shares)[which])
        order = np.argsort(times, kind="stable")[begin - before.sum() : end - before.sum()]  # at one time: by part
        return which[order], turns[order]


def shares(weights: Sequence[float], total: int) -> list[int]:
    """``total`` shared out in proportion to the weights, exactly: whole parts first, the rest to the largest remainders."""
    exact = np.array(weights, dtype=np.float64) / np.sum(weights) * total
    whole = np.floor(exact).astype(np.int64)
    rest = np.argsort(whole - exact, kind="stable")[: total - int(whole.sum())]
    whole[rest] += 1
    return [int(count) for count in whole]


class Prefixed(Source):
    """The same samples under names that begin with the name of their collection."""

    def __init__(self, whole: Source, prefix: str) -> None:
        self.whole, self.prefix = whole, prefix
        self.classes, self.object_classes = whole.classes, whole.object_classes
        self.object_ids, self.stuff = whole.object_ids, whole.stuff
        self.several, self.numbers = whole.several, whole.numbers
        self.block_ends, self.prefers_blocks = whole.block_ends, whole.prefers_blocks

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, index: int) -> Sample:
        sample = self.whole[index]
        sample.id = f"{self.prefix}/{sample.id}"
        return sample

    def worded(self, index: int) -> Sample:
        return self.whole.worded(index)

    def name(self, index: int) -> str:
        return f"{self.prefix}/{self.whole.name(index)}"

    def names(self) -> Any:
        prefix = pa.scalar(self.prefix.encode("utf-8", "surrogateescape"), pa.large_binary())
        return pc.binary_join_element_wise(prefix, self.whole.names(), pa.scalar(b"/", pa.large_binary()))


def prefixes(paths: Sequence[str], names: Sequence[Any]) -> list[str]:
    """What to put before the names (Arrow) of each collection: nothing where no two have a name in common.

    Else the last folder or file of those that have, or the whole path where that is not enough to tell them apart.
    """
    if pc.count_distinct(pa.concat_arrays(names)).as_py() == sum(pc.count_distinct(one).as_py() for one in names):
        return [""] * len(paths)
    ends = [PurePath(path).name or path for path in paths]
    told = [end if ends.count(end) == 1 else path for path, end in zip(paths, ends, strict=True)]
    told = [name if told.count(name) == 1 else f"{name}#{number}" for number, name in enumerate(told)]
    shared = [any(pc.any(pc.is_in(here, value_set=other)).as_py() for other in names if other is not here) for here in names]
    return [name if clash else "" for name, clash in zip(told, shared, strict=True)]
