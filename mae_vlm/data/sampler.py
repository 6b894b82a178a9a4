"""The order of training: a pure function of (seed, epoch, position), in constant memory, the same for any number of processes.

An epoch is a permutation of the collection made by a Feistel network (Luby and Rackoff, 1988, "How to construct pseudorandom
permutations from pseudorandom functions") on the next even number of bits, walked until it lands inside the collection (cycle walking:
Black and Rogaway, 2002, "Ciphers with arbitrary finite domains"). No list of indices exists, and starting anywhere costs O(1).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from mae_vlm.tokens.chance import key_of

_ROUNDS = 6
_WORD = 0xFFFF_FFFF_FFFF_FFFF


class Draw(NamedTuple):
    """One sample to read: where, for which epoch, and whether it counts (False: it only fills up a last batch)."""

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


class Order(Sampler[list[Draw]]):
    """Batches of draws for one process: its part of every (micro-)step of an epoch.

    Global step ``s`` of an epoch is positions ``[s * batch_size, (s + 1) * batch_size)`` of the epoch's permutation; its
    ``accumulation`` micro-steps x ``world`` processes take equal, disjoint parts of it, so their union does not depend on either.
    Without ``drop_last`` every sample comes exactly once: the last step is divided evenly and filled up with draws that are not
    ``real``, so that all processes take the same number of batches of the same size.

    Without ``shuffle`` the order is that of the collection and the epoch of every draw is 0 (validation: same crops, same masks).

    Args:
        length: samples in the collection.
        batch_size: pictures per optimizer step, over all processes and accumulation.
        world: processes; ``rank`` is this one's number.
        accumulation: micro-steps per optimizer step.

    Raises:
        ValueError: the batch size is not a multiple of world x accumulation, or with ``drop_last`` no batch would be left.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        world: int = 1,
        rank: int = 0,
        accumulation: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
    ) -> None:
        parts = world * accumulation
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
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.world, self.rank, self.accumulation = world, rank, accumulation
        self.shuffle, self.drop_last = shuffle, drop_last
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
        size = -(-min(self.batch_size, self.length - start) // parts)  # of the last step only what is left
        begin = start + (micro * self.world + self.rank) * size
        positions = np.arange(begin, begin + size, dtype=np.int64)
        real = positions < self.length
        indices = positions % self.length
        if self.shuffle:
            indices = permuted(indices, self.length, key_of(self.seed, epoch))
        return [Draw(index, epoch if self.shuffle else 0, counts) for index, counts in zip(indices.tolist(), real.tolist(), strict=True)]
