"""Shapes and grounds of the generated scenes as arithmetic on pixel centres.

A shape is drawn from its signed distance (negative inside, in pixels): its edge is one pixel wide and smooth at any size.
Colours are float32 RGB in [0, 1]; shape letters: H, W pixels, E corners of a polygon, S pixels of a square window.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "diamond")
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.84, 0.12, 0.13),
    "orange": (0.97, 0.53, 0.08),
    "yellow": (0.98, 0.87, 0.18),
    "green": (0.15, 0.62, 0.22),
    "cyan": (0.18, 0.80, 0.84),
    "blue": (0.13, 0.28, 0.82),
    "purple": (0.50, 0.17, 0.66),
    "pink": (0.98, 0.52, 0.74),
    "white": (0.97, 0.97, 0.96),
    "black": (0.07, 0.07, 0.09),
}
GROUNDS = ("gradient", "stripes", "checks", "clouds", "dots", "waves")


@dataclass(frozen=True)
class Figure:
    """One shape: centre and radius (of the circle around it) in pixels, ``turn`` in radians."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    turn: float


def _corners(radii: list[float], start: float) -> NDArray[np.complex64]:
    """Corners of a polygon around 0, at equal angles, as x + iy (y points down)."""
    angles = start + np.arange(len(radii)) * (2 * math.pi / len(radii))
    return np.asarray(np.asarray(radii) * np.exp(1j * angles), dtype=np.complex64)


def _cross(arm: float = 0.34) -> NDArray[np.complex64]:
    long = math.sqrt(1 - arm * arm)
    quarter = np.array([complex(long, -arm), complex(long, arm), complex(arm, arm)])
    return np.concatenate([quarter * 1j**turn for turn in range(4)]).astype(np.complex64)


POLYGONS: dict[str, NDArray[np.complex64]] = {
    "square": _corners([1.0] * 4, math.pi / 4),
    "triangle": _corners([1.0] * 3, -math.pi / 2),
    "star": _corners([1.0, 0.45] * 5, -math.pi / 2),
    "cross": _cross(),
    "diamond": _corners([1.0, 0.62] * 2, -math.pi / 2),
}


def polygon_distance(points_S: NDArray[np.complex64], corners_E: NDArray[np.complex64]) -> Floats:
    """Signed distance to a polygon that does not cross itself: to the nearest edge, with the sign of the crossing parity."""
    edges_E = np.roll(corners_E, -1) - corners_E
    along_SE = points_S[:, None] - corners_E
    part_SE = np.clip((along_SE * edges_E.conj()).real / (edges_E * edges_E.conj()).real, 0, 1)
    distance_S = np.abs(along_SE - part_SE * edges_E).min(1)
    below_SE = along_SE.imag >= 0
    rises_SE = below_SE & ~np.roll(below_SE, -1, axis=1)
    falls_SE = ~below_SE & np.roll(below_SE, -1, axis=1)
    left_SE = (edges_E.conj() * along_SE).imag > 0
    inside_S = ((rises_SE & left_SE) | (falls_SE & ~left_SE)).sum(1) % 2 == 1
    return np.asarray(np.where(inside_S, -distance_S, distance_S), dtype=np.float32)


def coverage(figure: Figure, xs_W: Floats, ys_H: Floats) -> Floats:
    """How much of each pixel of a window the figure covers: ``[H, W]`` in [0, 1]."""
    points_HW = (xs_W[None, :] - figure.x) + 1j * (ys_H[:, None] - figure.y)
    distance_HW: NDArray[Any]
    if figure.shape == "circle":
        distance_HW = np.abs(points_HW) - figure.radius
    elif figure.shape == "ring":
        distance_HW = np.abs(np.abs(points_HW) - 0.75 * figure.radius) - 0.25 * figure.radius
    else:
        corners_E = POLYGONS[figure.shape] * np.complex64(figure.radius * np.exp(1j * figure.turn))
        flat_S = points_HW.astype(np.complex64).ravel()
        distance_HW = polygon_distance(flat_S, corners_E).reshape(points_HW.shape)
    return np.clip(0.5 - distance_HW, 0, 1).astype(np.float32)


def paint(picture_HWC: Floats, figure: Figure, tint: Floats) -> tuple[slice, slice, NDArray[np.bool_]]:
    """Draws the figure over the picture in place; returns the window (rows, columns) and the bool mask within it."""
    height, width = picture_HWC.shape[:2]
    reach = figure.radius + 1
    rows = slice(max(0, int(figure.y - reach)), min(height, int(figure.y + reach) + 1))
    columns = slice(max(0, int(figure.x - reach)), min(width, int(figure.x + reach) + 1))
    ys_H = np.arange(rows.start, rows.stop, dtype=np.float32) + np.float32(0.5)
    xs_W = np.arange(columns.start, columns.stop, dtype=np.float32) + np.float32(0.5)
    alpha_HW = coverage(figure, xs_W, ys_H)
    light_HW = 1 - 0.16 * ((xs_W[None, :] - figure.x) + (ys_H[:, None] - figure.y)) / figure.radius  # lit from the upper left
    colour = np.asarray(COLOURS[figure.colour], dtype=np.float32) + tint
    window_HWC = picture_HWC[rows, columns]
    window_HWC += alpha_HW[..., None] * (light_HW[..., None] * colour - window_HWC)
    return rows, columns, alpha_HW > 0.5


def _smooth_noise(height: int, width: int, cells_GG: Floats) -> Floats:
    """A coarse square of random numbers blended smoothly up to ``[H, W]`` (value noise)."""
    grid = len(cells_GG) - 1

    def blend(length: int) -> Floats:
        position_L = ((np.arange(length) + 0.5) * (grid / length)).astype(np.float32)
        low_L = np.minimum(position_L.astype(np.int64), grid - 1)
        part_L = position_L - low_L
        part_L = part_L * part_L * (3 - 2 * part_L)
        weights_LG = np.zeros((length, grid + 1), dtype=np.float32)
        rows = np.arange(length)
        weights_LG[rows, low_L], weights_LG[rows, low_L + 1] = 1 - part_L, part_L
        return weights_LG

    return np.asarray(blend(height) @ cells_GG @ blend(width).T, dtype=np.float32)


@dataclass(frozen=True)
class _Weave:
    """Coordinates of a ground: turned by an angle and counted in periods, with random numbers to spend."""

    u_HW: Floats
    v_HW: Floats
    height: int
    width: int
    cells_GG: Floats


def _wave(phase: Floats) -> Floats:
    return np.asarray(0.5 + 0.5 * np.sin(2 * math.pi * phase), dtype=np.float32)


def _sharpen(values: Floats, gain: float = 2.5) -> Floats:
    return np.asarray(np.clip(0.5 + gain * (values - 0.5), 0, 1), dtype=np.float32)


_PATTERNS: dict[str, Callable[[_Weave], Any]] = {
    "gradient": lambda w: _wave(0.25 * w.u_HW + 0.5 * w.cells_GG[0, 0]),
    "stripes": lambda w: _sharpen(_wave(w.u_HW)),
    "checks": lambda w: _sharpen(0.5 + 0.5 * np.sin(2 * math.pi * 0.7 * w.u_HW) * np.sin(2 * math.pi * 0.7 * w.v_HW)),
    "clouds": lambda w: _sharpen(_smooth_noise(w.height, w.width, w.cells_GG), 1.6),
    "dots": lambda w: _sharpen(_wave(0.9 * w.u_HW) * _wave(0.9 * w.v_HW), 4.0),
    "waves": lambda w: _wave(w.u_HW + 0.35 * np.sin(2 * math.pi * 0.5 * w.v_HW)),
}


def draw_ground(kind: str, height: int, width: int, first: Floats, second: Floats, numbers: Floats) -> Floats:
    """A textured ground ``[H, W, 3]`` between two colours; ``numbers`` are at least 40 random numbers in [0, 1)."""
    angle, periods = math.pi * float(numbers[0]), 2.0 + 2.5 * float(numbers[1])
    ys_H = (np.arange(height, dtype=np.float32) + 0.5) / min(height, width) - 0.5
    xs_W = (np.arange(width, dtype=np.float32) + 0.5) / min(height, width) - 0.5
    cos, sin = np.float32(periods * math.cos(angle)), np.float32(periods * math.sin(angle))
    u_HW = cos * xs_W[None, :] + sin * ys_H[:, None] + numbers[2]
    v_HW = cos * ys_H[:, None] - sin * xs_W[None, :] + numbers[3]
    cells_GG = numbers[4:40].reshape(6, 6)
    blend_HW1 = _PATTERNS[kind](_Weave(u_HW, v_HW, height, width, cells_GG)).astype(np.float32)[..., None]
    shade_HW1 = (1 + 0.12 * (numbers[2] - 0.5) * xs_W[None, :] - 0.2 * ys_H[:, None])[..., None]  # lighter above, as outdoors
    return np.asarray((first + blend_HW1 * (second - first)) * shade_HW1, dtype=np.float32)
