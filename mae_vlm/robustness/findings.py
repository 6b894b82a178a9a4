"""What a head is worth on clean and on spoilt pictures, in numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from mae_vlm.robustness.calibration import Calibration
from mae_vlm.robustness.corruptions import COMMON
from mae_vlm.robustness.family import Family


class Place(NamedTuple):
    """A family's name and a level counted from 1; clean pictures are at level 0 of no family."""

    family: str
    level: int


CLEAN = Place("clean", 0)


@dataclass(frozen=True)
class Measured:
    """All single numbers of a head's metrics at one place, and of a classifier how its scores are calibrated."""

    values: dict[str, float]
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Findings:
    """One head's numbers.

    Attributes:
        metric: the head's own, which the table shows; ``higher`` is whether more of it is better.
        pictures: how many were looked at.
        families: in the order of the table.
        measured: every place of these families, and clean.
    """

    head: str
    metric: str
    higher: bool
    pictures: int
    families: list[Family]
    measured: dict[Place, Measured]

    @property
    def clean(self) -> float:
        return self.value(CLEAN)

    def value(self, place: Place) -> float:
        """The head's own metric; not a number where it has none there."""
        return self.measured[place].values.get(self.metric, math.nan)

    def values(self, family: Family) -> list[float]:
        """At all levels, the weakest first."""
        return [self.value(Place(family.name, level)) for level in family.levels]

    def mean(self, *families: Family) -> float:
        """Over all levels of some families."""
        return fmean(value for family in families for value in self.values(family))

    def drop(self, value: float) -> float:
        """How much worse than clean a value is, whichever way the metric counts; negative where it is better."""
        return self.clean - value if self.higher else value - self.clean

    @property
    def common(self) -> list[Family]:
        """The common corruptions: no hidden parts, no attack."""
        return [family for family in self.families if family in COMMON]

    def calibrations(self, families: list[Family], level: int | None = None) -> list[Calibration]:
        """Of these families' places at one level, or at all; none where the head is no classifier."""
        places = [Place(family.name, one) for family in families for one in family.levels if level in (None, one)]
        return [found for place in places if (found := self.measured[place].calibration) is not None]

    def error(self, families: list[Family]) -> float | None:
        """Mean expected calibration error over all their levels; pooled, too sure here and too unsure there would cancel."""
        found = self.calibrations(families)
        return fmean(one.error for one in found) if found else None
