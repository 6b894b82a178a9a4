"""The findings of one head as an SVG: a panel for each group of families, and for classifiers a reliability diagram."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

from mae_vlm.report.charts import number
from mae_vlm.robustness.calibration import Bin, Calibration
from mae_vlm.robustness.family import Family
from mae_vlm.robustness.findings import CLEAN, Findings

_COLOURS = ("#4269d0", "#d97706", "#3c9a5f", "#c2418f")
_GREY, _PALE = "#666", "#e4e4e4"
_WIDTH, _HEIGHT, _GAP, _HEAD = 300, 190, 66, 34  # pixels of a panel's field, between fields, and above all
_LEGEND = 44  # pixels below a panel for its legend
_ACROSS = 3  # panels side by side
_LEVELS = 5


@dataclass(frozen=True)
class _Field:
    """A panel's plotting field: its upper left corner in pixels, and the numbers at its edges."""

    left: float
    top: float
    first: float
    last: float
    low: float
    high: float

    def x(self, value: float) -> float:
        return self.left + (value - self.first) / (self.last - self.first) * _WIDTH

    def y(self, value: float) -> float:
        return self.top + (self.high - value) / (self.high - self.low) * _HEIGHT


def svg(found: Findings) -> str:
    """The picture: the head's metric over the strength, on one scale in all panels; dashed, the clean value."""
    groups: dict[str, list[Family]] = {}
    for family in found.families:
        groups.setdefault(family.group, []).append(family)
    low, high = _span([found.clean, *(value for family in found.families for value in found.values(family))])
    parts: list[str] = []
    for place, (group, families) in enumerate(groups.items()):
        parts += _group(_Field(*_corner(place), 0, _LEVELS, low, high), group, families, found)
    count = len(groups)
    if calibrated := found.measured[CLEAN].calibration:
        strongest = sum(found.calibrations(found.common, _LEVELS), Calibration())  # all their answers together
        field = _Field(*_corner(count), 0, 1, 0, 1)
        parts += _reliability(field, {"clean": calibrated.bins(), f"common, strength {_LEVELS}": strongest.bins()}, found)
        count += 1
    width = _GAP + min(count, _ACROSS) * (_WIDTH + _GAP)
    height = _corner(count - 1)[1] + _HEIGHT + _LEGEND + 24
    title = f"{found.metric} of head {found.head} over the strength, {found.pictures:,} pictures; dashed: clean {number(found.clean)}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height:.0f}" viewBox="0 0 {width} {height:.0f}"'
    start = [f'{head} font-family="sans-serif" font-size="12">', '<rect width="100%" height="100%" fill="white"/>']
    return "\n".join([*start, _text(_GAP, 20, title, "start", "#1a1a1a"), *parts, "</svg>\n"])


def _corner(place: int) -> tuple[float, float]:
    row, column = divmod(place, _ACROSS)
    return _GAP + column * (_WIDTH + _GAP), _HEAD + 26 + row * (_HEIGHT + _LEGEND + 50)


def _span(values: list[float]) -> tuple[float, float]:
    """Lowest and highest of the axis: all values with a little room."""
    there = [value for value in values if math.isfinite(value)] or [0.0]
    room = 0.06 * (max(there) - min(there)) or 0.1 * abs(there[0]) or 1.0
    return min(there) - room, max(there) + room


def _ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers between the two."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [count * step for count in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _frame(field: _Field, title: str) -> list[str]:
    parts = [_text(field.left, field.top - 8, title, "start", "#1a1a1a")]
    for tick in _ticks(field.low, field.high):
        parts.append(_line([(field.left, field.y(tick)), (field.left + _WIDTH, field.y(tick))], _PALE))
        parts.append(_text(field.left - 6, field.y(tick) + 4, number(round(tick, 12)), "end", _GREY))
    return parts


def _group(field: _Field, group: str, families: list[Family], found: Findings) -> list[str]:
    parts = _frame(field, group)
    for level in range(_LEVELS + 1):
        parts.append(_text(field.x(level), field.top + _HEIGHT + 16, str(level) if level else "clean", "middle", _GREY))
    parts.append(_line([(field.left, field.y(found.clean)), (field.left + _WIDTH, field.y(found.clean))], _GREY, ' stroke-dasharray="5 4"'))
    for place, family in enumerate(families):
        colour, values = _COLOURS[place % len(_COLOURS)], found.values(family)
        points = [(0.0, found.clean, "clean"), *zip(map(float, family.levels), values, _settings(family), strict=True)]
        shown = [(field.x(level), field.y(value), told) for level, value, told in points if math.isfinite(value)]
        parts.append(_line([(x, y) for x, y, _ in shown], colour, ' stroke-width="2"'))
        parts += [_dot(x, y, colour, f"{family.name}, {told}") for x, y, told in shown]
    return parts + _legend(field, [family.name for family in families])


def _settings(family: Family) -> list[str]:
    return [f"strength {level}: {family.unit} {family.strengths[level - 1]:.3g}" for level in family.levels]


def _reliability(field: _Field, curves: dict[str, list[Bin]], found: Findings) -> list[str]:
    """Share of right answers over the highest score; on the dashed line scores would be what they claim. Dots grow with the pictures."""
    parts = _frame(field, "reliability: share of right answers over the highest score")
    parts += [_text(field.x(tick), field.top + _HEIGHT + 16, number(tick), "middle", _GREY) for tick in (0, 0.2, 0.4, 0.6, 0.8, 1)]
    parts.append(_line([(field.x(0), field.y(0)), (field.x(1), field.y(1))], _GREY, ' stroke-dasharray="5 4"'))
    for colour, (name, bins) in zip(_COLOURS, curves.items(), strict=False):
        total = sum(one.pictures for one in bins)
        parts.append(_line([(field.x(one.score), field.y(one.right)) for one in bins], colour, ' stroke-width="2"'))
        for one in bins:
            told = f"{name}: {one.right:.3f} right of {one.pictures:,} answers with a score about {one.score:.3f}"
            parts.append(_dot(field.x(one.score), field.y(one.right), colour, told, 2 + 8 * math.sqrt(one.pictures / total)))
    return parts + _legend(field, list(curves))


def _legend(field: _Field, names: list[str]) -> list[str]:
    """Two names to a row below the field."""
    parts = []
    for place, name in enumerate(names):
        x, y = field.left + place % 2 * _WIDTH / 2, field.top + _HEIGHT + 34 + place // 2 * 16
        colour = _COLOURS[place % len(_COLOURS)]
        parts += [_line([(x, y - 4), (x + 16, y - 4)], colour, ' stroke-width="3"'), _text(x + 22, y, name, "start", "#333")]
    return parts


def _line(points: list[tuple[float, float]], colour: str, more: str = "") -> str:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{places}" fill="none" stroke="{colour}"{more}/>'


def _dot(x: float, y: float, colour: str, title: str, radius: float = 3) -> str:
    circle = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colour}" fill-opacity="0.75">'
    return f"{circle}<title>{escape(title)}</title></circle>"


def _text(x: float, y: float, words: str, anchor: str, colour: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'
