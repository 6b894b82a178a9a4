"""The comparison as one SVG: the score of every run, and what each choice cost. Drawn by hand: no plotting library is needed for dots."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

from mae_vlm.ablation.comparison import SECONDS, Comparison
from mae_vlm.ablation.outcomes import LOSS
from mae_vlm.ablation.statistics import spread

_COLOURS = ("#4269d0", "#d97706", "#3c9a5f", "#c2418f", "#6b4fbb", "#0e8a8a", "#9c6b4e", "#d1493f")
_LEFT, _TOP, _HEIGHT, _PANEL, _GAP = 80, 46, 280, 360, 90  # pixels


@dataclass(frozen=True)
class Axis:
    """From numbers ``low`` to ``high`` to pixels ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Three to seven round numbers within."""
        rough = (self.high - self.low) / 6
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough)
        return [count * step for count in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]


def svg(comparison: Comparison) -> str | None:
    """The picture: left the runs of each choice with their mean, right the same over seconds. None where no number may be compared.

    What is drawn is the score, or ``val/loss`` where there is no score but the loss means the same everywhere.
    """
    tag, values = _shown(comparison)
    if not values:
        return None
    upright = _axis(_reach(values), _TOP + _HEIGHT, _TOP)
    colours = {choice: _COLOURS[place % len(_COLOURS)] for place, choice in enumerate(comparison.choices)}
    parts = [*_frame(_LEFT, upright, tag), *_strips(values, upright, colours)]
    cost = {choice: {one.job.seed: one.seconds for one in comparison.finished(choice) if one.seconds is not None} for choice in values}
    width = _LEFT + _PANEL + 30
    if any(cost.values()):
        start = _LEFT + _PANEL + _GAP
        across = _axis([seconds for by_seed in cost.values() for seconds in by_seed.values()], start, start + _PANEL)
        parts += [*_frame(start, upright, ""), *_costs(values, cost, across, upright, colours)]
        width = start + _PANEL + 30
    said = f"winner: {comparison.winner}" if comparison.winner else f"no winner: {comparison.no_winner}"
    parts.append(_text(_LEFT, 22, _short(said, (width - _LEFT) // 7), "start", "#1a1a1a"))
    height = _TOP + _HEIGHT + 62
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return "\n".join(
        [f'{head} font-family="sans-serif" font-size="12">', '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"]
    )


def _shown(comparison: Comparison) -> tuple[str, dict[str, dict[int, float]]]:
    if comparison.score is not None:
        return comparison.score, comparison.scores
    found = (
        {}
        if comparison.no_loss
        else {
            choice: {one.job.seed: one.last[LOSS] for one in comparison.finished(choice) if LOSS in one.last}
            for choice in comparison.choices
        }
    )
    return LOSS, {choice: by_seed for choice, by_seed in found.items() if by_seed}


def _reach(values: dict[str, dict[int, float]]) -> list[float]:
    """Every number that is drawn: of the runs, and one standard deviation about their means."""
    numbers = [value for by_seed in values.values() for value in by_seed.values()]
    spreads = [measured for by_seed in values.values() if (measured := spread(list(by_seed.values()))) is not None]
    return numbers + [one.mean + side * (one.deviation or 0.0) for one in spreads for side in (-1, 1)]


def _axis(numbers: list[float], start: float, end: float) -> Axis:
    low, high = min(numbers), max(numbers)
    room = 0.12 * (high - low) or 0.05 * abs(high) or 1.0
    return Axis(low - room, high + room, start, end)


def _frame(left: float, upright: Axis, title: str) -> list[str]:
    """The upright axis with its grid lines."""
    parts = [_text(left, _TOP - 8, title, "start", "#555")] if title else []
    for tick in upright.ticks():
        y = upright.at(tick)
        parts.append(f'<line x1="{left}" x2="{left + _PANEL}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e4e4e4"/>')
        parts.append(_text(left - 8, y + 4, f"{tick:.6g}", "end", "#555"))
    return parts


def _strips(values: dict[str, dict[int, float]], upright: Axis, colours: dict[str, str]) -> list[str]:
    """Left: a dot for each run, a bar for the mean, a line for the standard deviation; seeds are joined, because they are paired."""
    step = _PANEL / len(values)
    middles = {choice: _LEFT + (place + 0.5) * step for place, choice in enumerate(values)}
    parts = []
    for seed in sorted(set().union(*values.values())):
        points = [f"{middles[choice]:.1f},{upright.at(by_seed[seed]):.1f}" for choice, by_seed in values.items() if seed in by_seed]
        parts.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="#c8c8c8" stroke-dasharray="2 3"/>')
    for choice, by_seed in values.items():
        x, colour, measured = middles[choice], colours[choice], spread(list(by_seed.values()))
        assert measured is not None
        y, half = upright.at(measured.mean), min(26.0, step / 3)
        if measured.deviation is not None:
            ends = [upright.at(measured.mean + side * measured.deviation) for side in (-1, 1)]
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{ends[0]:.1f}" y2="{ends[1]:.1f}" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<line x1="{x - half:.1f}" x2="{x + half:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}" stroke-width="3"/>')
        parts += [_dot(x, upright.at(value), colour, 4, f"{choice} seed {seed}: {value:.4f}") for seed, value in by_seed.items()]
        parts.append(_text(x, _TOP + _HEIGHT + 20, _short(choice, round(step / 7)), "middle", colour))
    return parts


def _costs(
    values: dict[str, dict[int, float]], cost: dict[str, dict[int, float]], across: Axis, upright: Axis, colours: dict[str, str]
) -> list[str]:
    """Right: the same runs by their seconds, and the mean of each choice as a ring."""
    base = _TOP + _HEIGHT
    parts = [f'<line x1="{across.start}" x2="{across.end}" y1="{base}" y2="{base}" stroke="#999"/>']
    parts += [_text(across.at(tick), base + 20, f"{tick:.6g}", "middle", "#555") for tick in across.ticks()]
    parts.append(_text((across.start + across.end) / 2, base + 42, f"{SECONDS} of a run", "middle", "#555"))
    for choice, by_seed in values.items():
        seeds = sorted(by_seed.keys() & cost[choice].keys())
        if not seeds:
            continue
        points = [(across.at(cost[choice][seed]), upright.at(by_seed[seed])) for seed in seeds]
        parts += [_dot(x, y, colours[choice], 3, f"{choice} seed {seed}") for (x, y), seed in zip(points, seeds, strict=True)]
        x, y = (sum(axis) / len(points) for axis in zip(*points, strict=True))
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" fill="none" stroke="{colours[choice]}" stroke-width="2"/>')
        parts.append(_text(x, y - 13, _short(choice, 30), "middle", colours[choice]))
    return parts


def _dot(x: float, y: float, colour: str, radius: int, title: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}" fill-opacity="0.75"><title>{escape(title)}</title></circle>'


def _text(x: float, y: float, words: str, anchor: str, colour: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'


def _short(words: str, letters: int) -> str:
    return words if len(words) <= letters else words[: max(1, letters - 1)] + "…"
