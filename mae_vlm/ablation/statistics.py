"""Means, spreads, and the interval of a paired difference: what two or three seeds can tell, and no more."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (of a sample, n - 1) over ``count`` runs; the deviation is None for one run."""

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True)
class Difference:
    """Mean of the paired differences and its interval ``low`` to ``high``; without a spread that means something both are None.

    ``seeds`` are those that both sides have.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: int

    @property
    def told_apart(self) -> bool:
        return self.above or (self.high is not None and self.high < 0)

    @property
    def above(self) -> bool:
        """The whole interval lies above zero."""
        return self.low is not None and self.low > 0


def spread(values: list[float]) -> Spread | None:
    """None where there is no value."""
    if not values:
        return None
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def paired(left: Mapping[int, float], right: Mapping[int, float]) -> Difference | None:
    """Left minus right over the seeds that both have, with Student's interval for paired samples; None where they share no seed.

    Two seeds or more are needed for an interval. Differences that are all the same have no interval either: scores are counts of few
    pictures, and two or three of them agree to the last digit by chance.
    """
    seeds = sorted(left.keys() & right.keys())
    if not seeds:
        return None
    differences = [left[seed] - right[seed] for seed in seeds]
    mean = statistics.fmean(differences)
    deviation = statistics.stdev(differences) if len(seeds) > 1 else 0.0
    if deviation <= 1e-12 * max(1.0, abs(mean)):  # what rounding leaves of equal differences
        return Difference(mean, None, None, len(seeds))
    half = t_quantile(0.5 + CONFIDENCE / 2, len(seeds) - 1) * deviation / math.sqrt(len(seeds))
    return Difference(mean, mean - half, mean + half, len(seeds))


def t_quantile(probability: float, freedom: int) -> float:
    """The value that Student's t with ``freedom`` degrees of freedom (1 and more) stays below with ``probability`` (0.5 up to 1)."""
    low, high = 0.0, 1.0
    while t_below(high, freedom) < probability:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if t_below(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def t_below(value: float, freedom: int) -> float:
    """P(t < value) for ``value`` from 0 up: the finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan(value / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    if freedom % 2:
        term, total = cosine, cosine if freedom > 1 else 0.0
        for factor in range(3, freedom - 1, 2):
            term *= cosine**2 * (factor - 1) / factor
            total += term
        inside = 2 / math.pi * (angle + sine * total)
    else:
        term = total = 1.0
        for factor in range(2, freedom - 1, 2):
            term *= cosine**2 * (factor - 1) / factor
            total += term
        inside = sine * total
    return 0.5 + inside / 2
