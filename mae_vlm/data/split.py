"""Which pictures validate: told by a hash of each picture's name, so that the split stays as pictures are added."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mae_vlm.data.sources.base import Part, Source

AUTOMATIC = 0.05
MOST = 10_000  # pictures that an automatic validation part holds at most
_AT_ONCE = 1 << 16  # names that are Python objects at one time


def name_hash(name: str) -> int:
    """64 bits of a name (unsigned), the same on every machine and in every run."""
    return int.from_bytes(blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")


def name_hashes(names: Any) -> NDArray[np.uint64]:
    """``name_hash`` of every name of an Arrow array of ``large_binary``: about a second for a million."""
    hashes = np.empty(len(names), dtype=np.uint64)
    for start in range(0, len(names), _AT_ONCE):
        digests = [blake2b(name, digest_size=8).digest() for name in names[start : start + _AT_ONCE].to_pylist()]
        hashes[start : start + len(digests)] = np.frombuffer(b"".join(digests), dtype="<u8")
    return hashes


def automatic_fraction(length: int) -> float:
    """0.05, halved until the part holds at most ``MOST`` pictures: halving keeps it a subset of what it was."""
    fraction = AUTOMATIC
    while length * fraction > MOST:
        fraction /= 2
    return fraction


def split_by_name(source: Source, fraction: float) -> tuple[Part, Part]:
    """(train, val): each picture validates if the hash of its name falls under ``fraction``; neither part is empty.

    Raises:
        ValueError: the fraction is not within (0, 1), or there are fewer than two pictures.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"val_fraction {fraction} must be more than 0 and less than 1, as 0.05")
    if len(source) < 2:
        raise ValueError(
            f"{len(source)} picture cannot be split into train and val; add pictures, or set data.val_path or data.val_fraction 0"
        )
    hashes = name_hashes(source.names())
    chosen = hashes < np.uint64(min(int(fraction * 2**64), 2**64 - 1))
    if not chosen.any():
        chosen[hashes.argmin()] = True
    if chosen.all():
        chosen[hashes.argmax()] = False
    return Part(source, _where(~chosen)), Part(source, _where(chosen))


def _where(chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.flatnonzero(chosen).astype(np.int64)
