"""``python -m data_prep statistics SRC``: what to set data.mean and data.std to."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from data_prep.arguments import Parser, add_engine, add_source, at_least, open_parts
from data_prep.console import say, with_bar

if TYPE_CHECKING:
    from data_prep.moments import Moments
    from mae_vlm.data.sources.base import Source

_CHUNK = 64  # pictures of one task
_SEED = 0


def main(arguments: list[str]) -> int:
    """Print mean and deviation of the train part, or of all where there is none."""
    parser = Parser(
        "statistics",
        "Mean and deviation of each channel over all pixels of the training pictures, in [0, 1]: computed in whole numbers, so exact.",
    )
    add_source(parser)
    parser.add_argument("--pictures", type=at_least(1), metavar="N", help="only N pictures, spread by a permutation (default: all)")
    add_engine(parser)
    return _run(parser.parse_args(arguments))


def _run(options: argparse.Namespace) -> int:
    parts, form, _ = open_parts(options)
    part = "train" if "train" in parts else next(iter(parts))
    source = parts[part]
    moments, failures = measure(source, options)
    mean, deviation = (f"[{', '.join(f'{value:.4f}' for value in values)}]" for values in moments.mean_and_deviation())
    read = min(options.pictures or len(source), len(source)) - len(failures)
    kinds = ", ".join(f"{sums[0]:,} pixels with {channels} channels" for channels, sums in sorted(moments.sums.items()))
    say(f"# {options.source} ({form}, part {part}): {read:,} of {len(source):,} pictures, {kinds}")
    if failures:
        say(f"# {len(failures):,} could not be read, the first: {failures[0]}")
    say(f"data:\n  mean: {mean}\n  std: {deviation}")
    say(f"# or on the command line:\n#   --data.mean '{mean}' --data.std '{deviation}'")
    return 0


def measure(source: Source, options: argparse.Namespace) -> tuple[Moments, list[str]]:
    """Moments of ``options.pictures`` of the source (None: of all), and the reasons of those that cannot be read."""
    from data_prep.engine import run
    from data_prep.moments import Moments

    count = min(options.pictures or len(source), len(source))
    starts = range(0, count, _CHUNK)
    done = run(Measure(source, count, options.value_range), starts, options.engine, options.workers)
    total, failures = Moments(), []
    counted = ((min(_CHUNK, count - start), result) for start, result in zip(starts, done, strict=True))
    for moments, reasons in with_bar(counted, count, "pictures"):
        total.merge(moments)
        failures += reasons
    return total, failures


class Measure:
    """The moments of ``_CHUNK`` pictures from a position on: the first ``count`` of the source's permutation, or all of it in order."""

    def __init__(self, source: Source, count: int, value_range: tuple[float, float] | None = None) -> None:
        self.source, self.count, self.value_range = source, count, value_range

    def __call__(self, start: int) -> tuple[Moments, list[str]]:
        from data_prep.moments import Moments
        from data_prep.pixels import picture, pixels

        moments, failures = Moments(), []
        for index in self._indices(range(start, min(start + _CHUNK, self.count))):
            try:
                image_CHW = pixels(picture(self.source[index], self.value_range))
            except (ValueError, OSError) as error:
                failures.append(str(error))
            else:
                moments.add(image_CHW)
        return moments, failures

    def _indices(self, positions: range) -> Sequence[int]:
        if self.count == len(self.source):
            return positions
        import numpy as np

        from mae_vlm.data.sampler import permuted

        found: list[int] = permuted(np.asarray(positions, dtype=np.int64), len(self.source), _SEED).tolist()
        return found
