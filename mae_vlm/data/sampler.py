"""The order of training: a pure function of (seed, epoch, position), in constant memory, the same for any number of processes.

An epoch is a permutation of the collection made by a Feistel network (Luby and Rackoff, 1988, "How to construct pseudorandom
permutations from pseudorandom functions") on the next even number of bits, walked until it lands inside the collection (cycle walking:
Black and Rogaway, 2002, "Ciphers with arbitrary finite domains"). No list of indices exists, and starting anywhere costs O(1).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from mae_vlm.tokens.chance import key_of

_ROUNDS = 6
_WORD = 0xFFFF_FFFF_FFFF_FFFF
_TOGETHER = 4  # blocks shuffled as one: two such groups, which a batch may touch, stay within the 8 row groups that a table keeps


class Draw(NamedTuple):
    """One sample to read: where, for which time, and whether it counts (False: it only fills up a last batch).

    ``epoch`` numbers the passes over the sample's own collection: it grows each time that the sample is drawn, also within an
    epoch of a mixture, and so crops and masks differ.
    """

    index: int  # type: ignore[assignment]  # a tuple's own method of that name is not needed
    epoch: int
    real: bool = True


def permuted(positions: NDArray[np.int64], length: int, key: int) -> NDArray[np.int64]:
    """Where the permutation of ``range(length)`` that belongs to ``key`` puts each position: int64, same shape.

    A bijection for every length up to 2**62 and every key; about 1 microsecond a position.
    """
    half = np.uint64(max(1, (max(length - 1, 1).bit_length() + 1) // 2))
    keys = [np.uint64(key_of(key, turn) & _WORD) for turn in range(_ROUNDS)]
    words = _feistel(positions.astype(np.uint64), half, keys)
    outside = np.flatnonzero(words >= length)
    while len(outside):  # the domain is under 4 x length: a few turns on ever fewer positions
        words[outside] = _feistel(words[outside], half, keys)
        outside = outside[words[outside] >= length]
    return words.astype(np.int64)


def _feistel(words: NDArray[np.uint64], half: np.uint64, keys: list[np.uint64]) -> NDArray[np.uint64]:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = words >> half, words & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << half) | right


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea, Flood, 2014), as in ``tokens.chance``; uint64 arrays wrap around."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


class Shuffle(ABC):
    """A pure function from (epoch, position) to the sample drawn there; an epoch has ``length`` positions.

    ``shuffle(epoch, positions)``, with int64 positions in ``[0, length)``, gives two int64 arrays of their shape: the samples'
    indices, and which pass over its collection each belongs to (``Draw.epoch``).
    """

    length: int

    @abstractmethod
    def __call__(self, epoch: int, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...


class InTurn(Shuffle):
    """No shuffling: the order of the collection, always the first pass (validation: same crops, same masks)."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, epoch: int, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return positions, np.zeros_like(positions)


class Full(Shuffle):
    """Every epoch another permutation of the whole collection, in constant memory."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed = length, seed

    def __call__(self, epoch: int, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return permuted(positions, self.length, key_of(self.seed, epoch)), np.full_like(positions, epoch)


class Blocks(Shuffle):
    """Blocks (shards, row groups) in another order every epoch, and the samples of each 4 that follow one another shuffled together.

    What is read at a time lies in few blocks, which a slow or remote disk can hold near. Memory and the start of an epoch cost
    O(blocks), a position O(log blocks).

    Args:
        ends: int64, where each block ends; the last is the length.
    """

    def __init__(self, ends: NDArray[np.int64], seed: int) -> None:
        self.ends, self.seed, self.length = ends, seed, int(ends[-1])
        self._epoch = -1

    def __call__(self, epoch: int, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if epoch != self._epoch:
            self._deal(epoch)
        indices = np.empty_like(positions)
        groups = np.searchsorted(self._group_ends, positions, side="right")
        for group in np.unique(groups).tolist():
            here = groups == group
            begin = int(self._group_ends[group - 1]) if group else 0
            size = int(self._group_ends[group]) - begin
            mixed = begin + permuted(positions[here] - begin, size, key_of(self.seed, epoch, 1, group))
            block = np.searchsorted(self._dealt_ends, mixed, side="right")
            indices[here] = mixed - self._dealt_ends[block] + self.ends[self._dealt[block]]
        return indices, np.full_like(positions, epoch)

    def _deal(self, epoch: int) -> None:
        """The blocks in the order of an epoch, and where each and each group of them ends in it."""
        sizes = np.diff(self.ends, prepend=0)
        self._dealt = permuted(np.arange(len(sizes), dtype=np.int64), len(sizes), key_of(self.seed, epoch, 0))
        self._dealt_ends = np.cumsum(sizes[self._dealt])
        last = np.minimum(np.arange(_TOGETHER, len(sizes) + _TOGETHER, _TOGETHER), len(sizes)) - 1
        self._group_ends, self._epoch = self._dealt_ends[last], epoch


class Endless(Shuffle):
    """Pass after pass of ``part`` in one sequence, cut into epochs of whole batches: no sample is left out at an epoch's end.

    What does not fill a batch begins the next epoch, so a batch there may hold samples of two passes. ``Draw.epoch`` is the pass.
    """

    def __init__(self, part: Shuffle, batch_size: int) -> None:
        self.part = part
        self.length = part.length // batch_size * batch_size or part.length

    def __call__(self, epoch: int, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        places = epoch * self.length + positions
        passes = places // self.part.length
        indices = np.empty_like(positions)
        for one in np.unique(passes).tolist():
            here = passes == one
            indices[here] = self.part(one, places[here] % self.part.length)[0]
        return indices, passes


class Order(Sampler[list[Draw]]):
    """Batches of draws for one process: its part of every (micro-)step of an epoch.

    Global step ``s`` of an epoch is positions ``[s * batch_size, (s + 1) * batch_size)`` of the epoch's permutation; its
    ``accumulation`` micro-steps x ``world`` processes take equal, disjoint parts of it, so their union does not depend on either.
    Without ``drop_last`` every sample comes exactly once: the last step is divided evenly and filled up with draws that are not
    ``real``, so that all processes take the same number of batches of the same, even size: neighbours (0 1)(2 3) stay together.

    Args:
        shuffle: which sample is drawn at which position.
        batch_size: pictures per optimizer step, over all processes and accumulation.
        world: processes; ``rank`` is this one's number.
        accumulation: micro-steps per optimizer step.

    Raises:
        ValueError: the batch size is not a multiple of world x accumulation, or with ``drop_last`` no batch would be left.
    """

    def __init__(
        self,
        shuffle: Shuffle,
        batch_size: int,
        world: int = 1,
        rank: int = 0,
        accumulation: int = 1,
        drop_last: bool = True,
    ) -> None:
        parts, length = world * accumulation, shuffle.length
        if batch_size < 1 or batch_size % parts:
            near = max(parts, round(batch_size / parts) * parts)
            raise ValueError(
                f"batch_size {batch_size} cannot be shared by {world} processes x {accumulation} accumulated steps; "
                f"set data.batch_size to a multiple of {parts}, such as {near}"
            )
        if drop_last and length < batch_size:
            most = length // parts * parts
            advice = f"set data.batch_size to at most {most}" if most else f"add pictures, or use fewer than {parts} processes x steps"
            raise ValueError(f"batch_size {batch_size} is more than the {length} pictures to train on; {advice}")
        assert 0 <= rank < world, f"rank {rank} of {world}"
        self.shuffle, self.length, self.batch_size = shuffle, length, batch_size
        self.world, self.rank, self.accumulation, self.drop_last = world, rank, accumulation, drop_last
        self.epoch, self._resumed = 0, (0, 0)

    @property
    def steps(self) -> int:
        """Optimizer steps in a whole epoch."""
        return self.length // self.batch_size if self.drop_last else -(-self.length // self.batch_size)

    def __len__(self) -> int:
        """Batches that this process takes in a whole epoch (also where the epoch is resumed midway)."""
        return self.steps * self.accumulation

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next iteration draws (Lightning calls this before each)."""
        self.epoch = epoch

    def resume(self, epoch: int, step: int) -> None:
        """Starts ``epoch`` at optimizer step ``step``, as if the steps before it had been taken; other epochs start at 0."""
        self.epoch, self._resumed = epoch + step // self.steps, (epoch + step // self.steps, step % self.steps)

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch = self.epoch
        first = self._resumed[1] if epoch == self._resumed[0] else 0
        for step in range(first, self.steps):
            for micro in range(self.accumulation):
                yield self.batch(epoch, step, micro)

    def batch(self, epoch: int, step: int, micro: int = 0) -> list[Draw]:
        """What this process reads in one micro-step of one epoch; costs the same for every step."""
        parts = self.world * self.accumulation
        start = step * self.batch_size
        size = self.batch_size // parts
        if start + self.batch_size > self.length:  # of the last step only what is left
            size = -(-(self.length - start) // (2 * parts)) * 2
        begin = start + (micro * self.world + self.rank) * size
        positions = np.arange(begin, begin + size, dtype=np.int64)
        real = positions < self.length
        indices, passes = self.shuffle(epoch, positions % self.length)
        return [Draw(*draw) for draw in zip(indices.tolist(), passes.tolist(), real.tolist(), strict=True)]
