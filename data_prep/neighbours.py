"""Which of many 64-bit hashes are near each other, without comparing all with all.

Multi-index hashing (Norouzi, Punjani, Fleet, 2012, "Fast search in Hamming space with multi-index hashing"): a hash is cut into four
bands of 16 bits. Two hashes that differ in at most 7 bits differ in at most one bit of some band, so it is enough to look, for each
band, into the bucket of its value and of the 16 values one bit away.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

SURE = 7  # bits: pairs up to here are certainly found, those up to ``most`` where a band agrees
_FLIPS = (0, *(1 << bit for bit in range(16)))
_CROWD = 50  # of one bucket, at most so many are compared with a hash
_ENOUGH = 150  # a hash that was near so many, counted each time, is not looked up again: it has more than 5 neighbours
_AT_ONCE = 4_000_000  # candidates in memory


def near_pairs(base_N: NDArray[np.uint64], probes_VN: NDArray[np.uint64], most: int = 12) -> tuple[NDArray[np.int64], int]:
    """``(pairs, crowded)``: int64 ``[pairs, 2]``, each once, lower index first, where some probe of one is near the base of the other.

    Of a hash with more than 5 neighbours (frames of a video) not all are found: ``crowded`` counts these hashes.
    """
    count = len(base_N)
    bands_NF, hits_N = _bands(base_N), np.zeros(count, np.int64)
    found = np.empty(0, np.int64)
    for band in range(4):
        order = np.argsort(bands_NF[:, band], kind="stable")
        starts = np.searchsorted(bands_NF[order, band], np.arange(65537))
        for probe_N in probes_VN:
            values_N = _bands(probe_N)[:, band].astype(np.int64)
            new = [found]
            for flip in _FLIPS:
                first = starts[values_N ^ flip]
                lengths = np.where(hits_N < _ENOUGH, np.minimum(starts[(values_N ^ flip) + 1] - first, _CROWD), 0)
                for seekers, entries in _candidates(first, lengths):
                    others = order[entries]
                    near = (np.bitwise_count(probe_N[seekers] ^ base_N[others]) <= most) & (seekers != others)
                    seekers, others = seekers[near], others[near]
                    hits_N += np.bincount(seekers, minlength=count)
                    new.append(np.minimum(seekers, others) * count + np.maximum(seekers, others))
            if sum(map(len, new)) > len(found):
                found = _distinct(np.concatenate(new))
    return np.stack(np.divmod(found, max(count, 1)), axis=1), int((hits_N >= _ENOUGH).sum())


def _bands(hashes_N: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """The four bands of each hash, ``[N, 4]``, in memory order (what is a band must only be the same for all)."""
    assert sys.byteorder in ("little", "big")
    return np.ascontiguousarray(hashes_N).view(np.uint16).reshape(-1, 4)


def _candidates(first: NDArray[np.int64], lengths: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(seeker, entry) of all entries ``first[s] .. first[s] + lengths[s]`` of every seeker s, some millions at a time."""
    seekers = np.flatnonzero(lengths)
    ends = np.cumsum(lengths[seekers])
    start = 0
    while start < len(seekers):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _AT_ONCE, side="right")))
        some = seekers[start:stop]
        repeated = np.repeat(some, lengths[some])
        within = np.arange(len(repeated)) - np.repeat(ends[start:stop] - lengths[some] - done, lengths[some])
        yield repeated, first[repeated] + within
        start = stop


def _distinct(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sorted, each once; ``np.unique`` hashes them, which takes minutes for numbers as regular as these."""
    values = np.sort(values)
    first: NDArray[np.bool_] = np.concatenate([np.ones(min(1, len(values)), np.bool_), values[1:] != values[:-1]])
    return values[first]
