"""Which pictures go into which shard: told by the sizes of the parts alone, so that every machine and every run plans the same."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from mae_vlm.data.sampler import permuted
from mae_vlm.data.sources.base import Source
from mae_vlm.tokens.chance import key_of

_CHUNK = 65536


@dataclass(frozen=True)
class Shard:
    """Positions ``[start, stop)`` of a part's writing order, in the file ``name``."""

    name: str
    part: str
    start: int
    stop: int


def plan(parts: dict[str, Source], samples: int) -> list[Shard]:
    """Shards of ``samples`` pictures: train-00000.tar, val-00000.tar ...; pictures-00000.tar where there is no split."""
    shards = []
    for part, source in parts.items():
        count = -(-len(source) // samples)
        digits = max(5, len(str(count - 1)))
        for number in range(count):
            name = f"{'pictures' if part == 'all' else part}-{number:0{digits}d}.tar"
            shards.append(Shard(name, part, number * samples, min((number + 1) * samples, len(source))))
    return shards


def indices(start: int, stop: int, length: int, shuffle: int | None) -> list[int]:
    """Which pictures of a part stand at those positions of its writing order: its own order, or the permutation of a seed."""
    positions = np.arange(start, stop, dtype=np.int64)
    found: list[int] = (positions if shuffle is None else permuted(positions, length, key_of(shuffle, length))).tolist()
    return found


def fingerprints(parts: dict[str, Source]) -> dict[str, Any]:
    """Number and names of each part's pictures, the names as one sha256: another collection has others."""
    return {part: {"pictures": len(source), "names": _names_hash(source)} for part, source in parts.items()}


def _names_hash(source: Source) -> str:
    names, total = source.names(), sha256()
    for start in range(0, len(names), _CHUNK):
        for name in names.slice(start, _CHUNK).to_pylist():
            data = name if isinstance(name, bytes) else str(name).encode("utf-8", "surrogateescape")
            total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()
