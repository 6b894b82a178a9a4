"""How vectors are held for looking up: exactly, or by neighbourhoods, in 32, 16 or 8 bits a number (faiss)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
KINDS, BITS = ("auto", "flat", "ivf", "hnsw"), ("float32", "float16", "int8")
_EXACT = 100_000  # pictures up to which every one is looked at
_LEARN = 64  # pictures for each neighbourhood to learn them from
_ASKED = 100  # pictures that are looked up to see what is found
_TOP = 10
_ENOUGH = 0.95  # of the true nearest ten that a search finds, or as many neighbourhoods as that takes


class Built(NamedTuple):
    """An index of faiss, what kind it is of, and which share of the true nearest ten it finds."""

    index: Any
    kind: str
    found: float


def library() -> Any:
    """The library faiss.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise ValueError("an index needs faiss, which is not installed: pip install 'mae_vlm[search]'") from None
    return faiss


def build(parts: Callable[[], Iterator[Vectors]], width: int, count: int, kind: str = "auto", bits: str = "float16") -> Built:
    """Hold ``count`` vectors of unit length, given part by part as often as asked for.

    ``flat`` compares with all; ``ivf`` with those of the nearest neighbourhoods, about 4 sqrt(count) in all, of which so many are looked
    through as find .95 of the true nearest ten; ``hnsw`` goes from neighbour to neighbour. auto is flat up to 100,000 pictures, else ivf.

    Raises:
        ValueError: no vectors, or no faiss.
    """
    if not count:
        raise ValueError("no picture could be read: there is nothing to index")
    kind = ("flat" if count <= _EXACT else "ivf") if kind == "auto" else kind
    index = _empty(width, count, kind, bits)
    if not index.is_trained:
        index.train(_sample(parts, count, _LEARN * getattr(index, "nlist", 1024)))
    for rows in parts():
        index.add(rows)
    asked = _sample(parts, count, _ASKED)
    true = _nearest(parts, asked)
    found = _share(index, asked, true)
    while kind == "ivf" and found < _ENOUGH and index.nprobe < index.nlist:
        index.nprobe = min(2 * index.nprobe, index.nlist)
        found = _share(index, asked, true)
    return Built(index, kind, found)


def _empty(width: int, count: int, kind: str, bits: str) -> Any:
    faiss = library()
    alike, scalar = faiss.METRIC_INNER_PRODUCT, faiss.ScalarQuantizer
    if bits == "float32":
        if kind == "flat":
            return faiss.IndexFlatIP(width)
        if kind == "hnsw":
            return faiss.IndexHNSWFlat(width, 32, alike)
    held = scalar.QT_8bit if bits == "int8" else scalar.QT_fp16
    if kind == "flat":
        return faiss.IndexScalarQuantizer(width, held, alike)
    if kind == "hnsw":
        return faiss.IndexHNSWSQ(width, held, 32, alike)
    lists = max(1, min(round(4 * math.sqrt(count)), count // 39 or 1))  # fewer than 39 each, and faiss warns
    places = faiss.IndexFlatIP(width)
    index = faiss.IndexIVFFlat(places, width, lists, alike) if bits == "float32" else None
    index = index or faiss.IndexIVFScalarQuantizer(places, width, lists, held, alike)
    index.nprobe = min(8, lists)
    return index


def _sample(parts: Callable[[], Iterator[Vectors]], count: int, wanted: int) -> Vectors:
    """Vectors spread evenly over all."""
    numbers = np.unique(np.linspace(0, count - 1, min(count, wanted)).astype(np.int64))
    chosen, start = [], 0
    for rows in parts():
        here = numbers[(numbers >= start) & (numbers < start + len(rows))] - start
        chosen.append(rows[here])
        start += len(rows)
    return np.concatenate(chosen)


def _nearest(parts: Callable[[], Iterator[Vectors]], asked: Vectors) -> NDArray[np.int64]:
    """The true nearest of all for each that asks ``[asked, top]``."""
    scores, numbers, start = np.zeros((len(asked), 0), np.float32), np.zeros((len(asked), 0), np.int64), 0
    for rows in parts():
        scores = np.concatenate([scores, asked @ rows.T], axis=1)
        numbers = np.concatenate([numbers, np.broadcast_to(np.arange(start, start + len(rows)), (len(asked), len(rows)))], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :_TOP]
        scores, numbers = np.take_along_axis(scores, best, 1), np.take_along_axis(numbers, best, 1)
        start += len(rows)
    return numbers


def _share(index: Any, asked: Vectors, true: NDArray[np.int64]) -> float:
    found = index.search(asked, true.shape[1])[1]
    return float(np.mean([len(set(one) & set(right)) / len(right) for one, right in zip(found.tolist(), true.tolist(), strict=True)]))
