"""From a range test (Smith, 2015, "Cyclical learning rates", section 3.3) to a rate, and its picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

_SMOOTHING = 0.04  # width of the Gaussian, as a share of the test's steps
_SIZE, _LEFT, _TOP, _BOTTOM = (720, 420), 70, 30, 50
_GREY, _RAW, _SMOOTH, _MARK = (140, 140, 140), (190, 205, 230), (31, 90, 170), (200, 60, 40)


class Range(NamedTuple):
    """A range test: the rate and the loss of each step, the loss smoothed, and the place of the suggestion (None: the loss never fell)."""

    rates: NDArray[np.float64]
    losses: NDArray[np.float64]
    smooth: NDArray[np.float64]
    found: int | None


def raw_losses(averages: list[float], beta: float = 0.98) -> NDArray[np.float64]:
    """The losses behind the running averages that Lightning's finder (2.6) reports.

    It divides its average after step t by ``1 - beta ** (t + 1)``, one power too many, so that its curve begins at half the loss and
    rises whatever the model does.
    """
    told = np.asarray(averages, dtype=np.float64)
    running = told * (1 - beta ** (np.arange(1, len(told) + 1) + 1.0))
    return np.asarray((running - beta * np.concatenate([[0.0], running[:-1]])) / (1 - beta))


def suggest(rates: list[float], losses: NDArray[np.float64]) -> Range:
    """The rate where the smoothed loss falls most steeply over the logarithm of the rate, before its lowest point.

    Lightning's own suggestion differentiates over the rate itself, and so always finds the smallest ones, where noise is divided by
    next to nothing. Losses that are not finite end the test.
    """
    finite = np.isfinite(losses)
    end = len(losses) if finite.all() else int(np.argmin(finite))
    at, known = np.asarray(rates[:end], dtype=np.float64), losses[:end]
    smooth = _smoothed(known)
    if end < 3:
        return Range(at, known, smooth, None)
    lowest = int(np.argmin(smooth))
    fall = float(smooth[: lowest + 1].max() - smooth[lowest])
    if lowest < 2 or fall <= max(float(np.std(known - smooth)) / 2, 1e-6 * abs(float(smooth[0]))):
        return Range(at, known, smooth, None)
    slope = np.gradient(smooth, np.log(at))
    return Range(at, known, smooth, int(np.argmin(slope[:lowest])))


def _smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A Gaussian mean; at the ends over what there is."""
    places = np.arange(len(values))
    width = max(1.0, _SMOOTHING * len(values))
    weights = np.exp(-0.5 * ((places[:, None] - places[None]) / width) ** 2)
    return np.asarray(weights @ values / weights.sum(axis=1))


def draw(test: Range, file: Path) -> None:
    """The test as a PNG: loss over the base rate (log), each step's and smoothed, the suggestion marked."""
    picture = Image.new("RGB", _SIZE, "white")
    pen = ImageDraw.Draw(picture)
    low, high = float(test.smooth.min()), float(test.smooth.max())
    shown = np.clip(test.losses, low - 0.2 * (high - low), high)  # a diverging end would press the rest flat
    bottom, top = float(shown.min()), float(shown.max()) + 1e-9
    logs = np.log10(test.rates)

    def place(log: float, loss: float) -> tuple[float, float]:
        x = _LEFT + (log - logs[0]) / max(1e-9, logs[-1] - logs[0]) * (_SIZE[0] - _LEFT - 20)
        return x, _SIZE[1] - _BOTTOM - (loss - bottom) / (top - bottom) * (_SIZE[1] - _BOTTOM - _TOP)

    for decade in range(math.ceil(logs[0] - 1e-6), math.floor(logs[-1] + 1e-6) + 1):
        x, y = place(decade, bottom)
        pen.line([(x, _TOP), (x, y)], fill=(225, 225, 225))
        pen.text((x - 12, y + 8), f"1e{decade}", fill=_GREY)
    for share in (0.0, 0.5, 1.0):
        loss = bottom + share * (top - bottom)
        pen.text((8, place(logs[0], loss)[1] - 6), f"{loss:.4g}", fill=_GREY)
    for values, colour, width in ((shown, _RAW, 1), (np.clip(test.smooth, bottom, top), _SMOOTH, 3)):
        pen.line([place(log, loss) for log, loss in zip(logs, values, strict=True)], fill=colour, width=width)
    if test.found is not None:
        x, y = place(logs[test.found], float(test.smooth[test.found]))
        pen.ellipse([x - 6, y - 6, x + 6, y + 6], fill=_MARK)
        pen.text((x + 10, y - 14), f"{test.rates[test.found]:.2g}", fill=_MARK)
    pen.text((_LEFT, 8), "loss over base_lr (at 256 images per optimizer step); pale: each step, dark: smoothed", fill=(40, 40, 40))
    picture.save(file)
