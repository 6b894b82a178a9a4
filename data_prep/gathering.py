"""All looks of a collection put together: arrays over all pictures, whatever their number."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from data_prep.console import with_bar
from data_prep.engine import run
from data_prep.look import CHUNK, FACTS, Look, Looks
from data_prep.moments import Moments
from data_prep.perceptual_hash import SIDE
from mae_vlm.data.problems import Problems
from mae_vlm.data.sources.base import Source


@dataclass
class Gathered:
    """Everything that was seen; ``facts`` and ``thumbs`` row by row of the readable pictures, part after part.

    ``thumbs`` lies in a file that goes with the object: a kilobyte for each picture. ``moments`` and the captions' arrays are by part.
    """

    parts: list[str]
    facts: NDArray[np.void]
    thumbs: NDArray[np.uint8]
    moments: list[Moments]
    failures: list[tuple[int, int, str, str]]
    annotations: Problems
    caption_words: list[NDArray[np.int64]]
    caption_hashes: list[NDArray[np.uint64]]


@dataclass
class _Kept:
    """What is collected of one part."""

    moments: Moments = field(default_factory=Moments)
    words: list[NDArray[np.int64]] = field(default_factory=list)
    hashes: list[NDArray[np.uint64]] = field(default_factory=list)


def gather(parts: dict[str, Source], engine: str, workers: int, value_range: tuple[float, float] | None = None) -> Gathered:
    """Look at every picture of every part; ``value_range`` as in ``Form``."""
    sources = list(parts.values())
    tasks = [(part, start) for part, source in enumerate(sources) for start in range(0, len(source), CHUNK)]
    total = sum(map(len, sources))
    done = run(Look(sources, value_range), tasks, engine, workers)
    counted = ((len(looks.facts) + len(looks.failures), (part, looks)) for (part, _), looks in zip(tasks, done, strict=True))
    return _collect(list(parts), with_bar(counted, total, "pictures"), total)


def _collect(names: list[str], seen: Iterator[tuple[int, Looks]], total: int) -> Gathered:
    kept = [_Kept() for _ in names]
    facts = np.empty(total, FACTS)
    with tempfile.TemporaryFile() as file:  # numpy keeps it open as long as the array lives
        file.truncate(max(1, total) * SIDE * SIDE)
        thumbs = np.memmap(file, np.uint8, "r+", shape=(total, SIDE, SIDE)) if total else np.empty((0, SIDE, SIDE), np.uint8)
    failures: list[tuple[int, int, str, str]] = []
    annotations, count = Problems(), 0
    for part, looks in seen:
        stop = count + len(looks.facts)
        facts[count:stop], thumbs[count:stop] = looks.facts, looks.thumbs
        count = stop
        kept[part].moments.merge(looks.moments)
        kept[part].words.append(np.array(looks.caption_words, np.int64))
        kept[part].hashes.append(np.array(looks.caption_hashes, np.uint64))
        failures += looks.failures
        for problem in looks.annotations:
            annotations.add(*problem)
    return Gathered(
        names,
        facts[:count],
        thumbs[:count],
        [one.moments for one in kept],
        failures,
        annotations,
        [np.concatenate(list(chain([np.empty(0, np.int64)], one.words))) for one in kept],
        [np.concatenate(list(chain([np.empty(0, np.uint64)], one.hashes))) for one in kept],
    )
