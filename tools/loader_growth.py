"""Memory by which a loader's worker grows over 100,000 samples of a folder of 1,000,000 pictures.

``python -m tools.loader_growth`` reads through the real loader, order and reader. The index is a million names in
Arrow arrays; the names are those of a few generated JPEGs, again and again, so that no million files need to be written. Prints the
worker's memory after its first 2,000 samples and ten times until the end: what grows is what it keeps, and the pages of the index that
it has touched.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch.utils.data import DataLoader

from mae_vlm.data.loading import loader
from mae_vlm.data.reader import Reader
from mae_vlm.data.sampler import Full, Order
from mae_vlm.data.sources.base import Source
from mae_vlm.data.transforms import Augment
from mae_vlm.types import Batch, Sample

_FILES, _SIDE, _BATCH, _WARM = 64, 96, 100, 2_000


class ManyNames(Source):
    """``count`` names in an Arrow array, as a folder's index holds them, of ``_FILES`` real files."""

    def __init__(self, root: Path, count: int) -> None:
        self.root = root
        self._names = pa.array([f"part_{i // 1000:05d}/picture_{i:09d}.jpg".encode() for i in range(count)], pa.large_binary())
        self._labels = np.arange(count, dtype=np.int32) % 1000

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return os.fsdecode(self._names[index].as_py())

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.name(index), (self.root / f"{index % _FILES}.jpg").read_bytes(), int(self._labels[index]))


def write_pictures(root: Path) -> None:
    """Small JPEGs of smooth noise."""
    for number in range(_FILES):
        coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC).save(root / f"{number}.jpg", "JPEG", quality=90)


def resident(process: int) -> tuple[float, float]:
    """MB of memory that a process holds, and of those that it shares with no other."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    found = {line.split(":")[0]: float(line.split()[1]) / 1024 for line in text.splitlines()[1:]}
    return found["Rss"], found["Private_Dirty"]


def growth(names: int, samples: int) -> Iterator[tuple[int, float, float]]:
    """(samples read, resident MB, own MB) of the one worker, after the warm-up and then ten times."""
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder))
        source = ManyNames(Path(folder), names)
        order = Order(Full(names, 0), _BATCH)
        reader = Reader(source, Augment((_SIDE, _SIDE)), 0, 3)
        batches: DataLoader[Batch] = loader(reader, order, 1, 3 * _SIDE * _SIDE)
        running = iter(batches)
        worker: int = running._workers[0].pid  # type: ignore[attr-defined]
        marks = {_WARM + (samples * tenth // 10) // _BATCH * _BATCH for tenth in range(11)}
        for number in range(1, max(marks) // _BATCH + 1):
            assert len(next(running)) == _BATCH
            if number * _BATCH in marks:
                yield number * _BATCH, *resident(worker)


def main() -> None:
    """Print what the worker holds as it goes, and its growth."""
    options = _options()
    if not Path("/proc/self/smaps_rollup").exists():
        print("nothing measured: this system does not tell a process's memory in /proc")
        return
    torch.set_num_threads(1)
    began, seen = time.perf_counter(), []
    for samples, whole, own in growth(options.names, options.samples):
        seen.append((whole, own))
        print(f"{samples:>8,} samples: {whole:.0f} MB resident, {own:.0f} MB its own, {time.perf_counter() - began:.0f} s", flush=True)
    grown = [seen[-1][kind] - min(mark[kind] for mark in seen) for kind in (0, 1)]
    print(f"growth over {options.samples:,} samples, from the least: {grown[0]:.1f} MB resident, {grown[1]:.1f} MB its own")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.loader_growth", description=__doc__)
    parser.add_argument("--names", type=int, default=1_000_000, help="pictures of the folder")
    parser.add_argument("--samples", type=int, default=100_000)
    return parser.parse_args()


if __name__ == "__main__":
    main()
