"""Curves as inline SVG: axes with round numbers, a legend with the last values, a point's own numbers under the mouse."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

from mae_vlm.report.recorded import Curve

_WIDTH, _HEIGHT = 440, 212
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 8, 26
_POINTS = 400  # of a curve at most: what a screen can show
_MARKED = 40  # curves of fewer points show each of them


@dataclass(frozen=True)
class Line:
    """One curve: its name in the legend, its points, a colour number from 0, dashed for controls."""

    name: str
    curve: Curve
    colour: int
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """Some curves over the optimizer step; ``unit`` is told beside the title, ``log`` puts decades on the axis."""

    title: str
    unit: str
    lines: list[Line]
    note: str = ""
    log: bool = False
    zero: bool = False


def chart(what: Chart, steps: int = 0) -> str:
    """A card with title, plot and legend; the axis goes from 0 to ``steps`` at least; nothing where no line has a point."""
    lines = [line for line in what.lines if line.curve]
    if not lines:
        return ""
    note = f"<p>{escape(what.note)}</p>" if what.note else ""
    unit = f' <span class="unit">{escape(what.unit)}</span>' if what.unit else ""
    return f'<div class="card"><h3>{escape(what.title)}{unit}</h3>{note}{_plot(what, lines, steps)}{_legend(lines)}</div>'


def _plot(what: Chart, lines: list[Line], steps: int) -> str:
    values = [value for line in lines for _, value in line.curve]
    log = what.log and min(values) > 0 and max(values) > 20 * min(values)
    low, high = _span([math.log10(value) for value in values] if log else values, what.zero and not log)
    first, last = 0, max(1, steps, *(line.curve[-1][0] for line in lines))

    def across(step: float) -> float:
        return _LEFT + (step - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)

    def down(value: float) -> float:
        place = math.log10(value) if log else value
        return _TOP + (high - place) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    ticks = _decades(10**low, 10**high) if log else _ticks(low, high, 5)
    for tick, label in zip(ticks, _labels(ticks), strict=True):
        y = down(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for tick in _ticks(first, last, 6, whole=True):
        parts.append(f'<text x="{across(tick):.1f}" y="{_HEIGHT - 9}" text-anchor="middle">{tick:,.0f}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT + 5}" text-anchor="end">step</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{_HEIGHT - _BOTTOM}" y2="{_HEIGHT - _BOTTOM}"/>')
    for line in reversed(lines):  # the first on top
        shown = [(across(step), down(value), step, value) for step, value in thinned(line.curve)]
        dashes = ' stroke-dasharray="5 4"' if line.dashed else ""
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y, _, _ in shown)
        parts.append(f'<path stroke="var(--c{line.colour})"{dashes} d="M{path}"/>')
        if len(shown) <= _MARKED:
            parts += [_point(line, *point) for point in shown]
    told = escape("; ".join(f"{line.name} {number(line.curve[0][1])} to {number(line.curve[-1][1])}" for line in lines))
    title = escape(f"{what.title}{f', {what.unit}' if what.unit else ''}, over the optimizer step: ")
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + 8}" role="img" aria-label="{title}{told}">{"".join(parts)}</svg>'


def _point(line: Line, x: float, y: float, step: int, value: float) -> str:
    told = f"{escape(line.name)}: {number(value)} at step {step:,}"
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.4" fill="var(--c{line.colour})"><title>{told}</title></circle>'


def _legend(lines: list[Line]) -> str:
    rows = [
        f'<li><i style="border-color:var(--c{line.colour})"{" class=dashed" if line.dashed else ""}></i>'
        f"{escape(line.name)} <b>{number(line.curve[-1][1])}</b></li>"
        for line in lines
    ]
    return f'<ul class="legend">{"".join(rows)}</ul>'


def thinned(curve: Curve) -> Curve:
    """At most 400 points: of each stretch the lowest and the highest, so that no spike is lost."""
    if len(curve) <= _POINTS:
        return curve
    size = math.ceil(len(curve) / (_POINTS // 2))
    kept: Curve = []
    for start in range(0, len(curve), size):
        piece = curve[start : start + size]
        ends = {min(piece, key=lambda point: point[1]), max(piece, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept


def _span(values: list[float], zero: bool) -> tuple[float, float]:
    """Lowest and highest of the axis: all values with a little room; 0 too where ``zero`` says so."""
    low, high = min(values), max(values)
    low = min(low, 0.0) if zero else low
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return (low if zero and low == 0 else low - room), high + room


def _ticks(low: float, high: float, wanted: int, whole: bool = False) -> list[float]:
    """Round numbers between the two: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    step = max(1.0, step) if whole else step
    start = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(start, math.floor(high / step + 1e-9) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten between the two; 1, 2 and 5 times them where they are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors, most in (((1, 2, 5), 6), ((1, 3), 8), ((1,), 99)):
        ticks = [float(f"{factor}e{power}") for power in powers for factor in factors if low <= factor * 10.0**power <= high]
        if len(ticks) <= most:
            break
    return ticks


def _labels(ticks: list[float]) -> list[str]:
    """All in one notation."""
    if any(0 < abs(tick) < 1e-3 for tick in ticks):
        return [f"{tick:.1e}".replace("e-0", "e-").replace(".0e", "e") if tick else "0" for tick in ticks]
    return [number(tick) for tick in ticks]


def number(value: float) -> str:
    """Four digits at most, thousands apart, powers of ten only for the very small."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size < 1e-3:
        return f"{value:.1e}".replace("e-0", "e-")
    return f"{value:.4g}"
