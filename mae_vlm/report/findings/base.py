"""What a finding is, what checks for one, and how much of a curve is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from mae_vlm.report.recorded import Curve, Recorded

FAULT, WARNING = "fault", "warning"  # the run is of no use as it is; it is worth less than it could be


@dataclass(frozen=True)
class Finding:
    """Something to change.

    Attributes:
        name: the finding's name in kebab case.
        severity: FAULT or WARNING.
        title: what is the matter, in one sentence.
        evidence: the numbers it is told from.
        advice: what to change, the likeliest first, settings by their names on the command line.
        explains: names of findings that only follow from this one, and are then not told on their own.
    """

    name: str
    severity: str
    title: str
    evidence: tuple[str, ...]
    advice: tuple[str, ...]
    explains: tuple[str, ...] = ()


class Untold(Exception):
    """A check has not what it needs; the message says what is missing."""


@dataclass(frozen=True)
class Check:
    """A question to a run; ``judge`` gives the finding, None where all is well, and raises Untold where it cannot know."""

    name: str
    question: str
    judge: Callable[[Recorded], Finding | None]


def needed(run: Recorded, tag: str, points: int = 1, reason: str = "") -> Curve:
    """A curve of at least so many finite points, or Untold."""
    curve = run.curve(tag)
    if len(curve) < points:
        raise Untold(reason or (f"{tag} was not recorded" if not curve else f"{tag} has {len(curve)} points, {points} are needed"))
    return curve


def middle(curve: Curve) -> float:
    """The median value."""
    return median(value for _, value in curve)


def tail(curve: Curve, share: float = 0.1) -> float:
    """The median of the last ``share`` of the points, at least one."""
    return middle(curve[-max(1, round(share * len(curve))) :])


def at(curve: Curve, share: float) -> float:
    """The value at ``share`` of the way from the first step to the last: of the last point up to there."""
    limit = curve[0][0] + share * (curve[-1][0] - curve[0][0])
    return [value for step, value in curve if step <= limit][-1]


def around(curve: Curve, step: int, share: float = 0.1) -> float:
    """The median of the points within ``share`` of the run around a step, or of the nearest one."""
    reach = share * (curve[-1][0] - curve[0][0]) / 2
    near = [point for point in curve if abs(point[0] - step) <= reach]
    return middle(near or [min(curve, key=lambda point: abs(point[0] - step))])


def travel(run: Recorded) -> float | None:
    """The sum of the learning rates of all steps; None where none was recorded.

    AdamW moves a weight by about the rate in a step: as long as the sum is small beside the weights (about .1 in a new model), the run
    cannot have learned whatever there is to learn.
    """
    rates = run.curve("optimizer/lr")
    if not rates:
        return None
    return sum(value for _, value in rates) / len(rates) * run.steps


def count(number: float) -> str:
    """A whole number, thousands apart."""
    return f"{number:,.0f}"
