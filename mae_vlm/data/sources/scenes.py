"""Generated scenes: coloured shapes on textured grounds, drawn from an index, with everything that can be told about them.

The default input of the tool: it needs no download, and each scene knows its captions, questions, boxes, masks and class.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mae_vlm.data.sources.base import Source
from mae_vlm.data.sources.parts.scene_drawing import COLOURS, GROUNDS, SHAPES, Figure, Floats, draw_ground, paint
from mae_vlm.data.sources.parts.scene_words import captions, questions
from mae_vlm.tokens.chance import key_of
from mae_vlm.types import Sample

_SIZES = (("small", 0.13), ("medium", 0.18), ("large", 0.26))  # radius in short sides
_MAX_FIGURES = 4
_TRIES = 24


class Scenes(Source):
    """``count`` scenes of ``image_size`` (height, width) pixels; scene ``i`` is a pure function of (seed, i, image_size).

    Samples hold uint8 ``[3, H, W]``, boxes and visible masks (an object loses what a later one covers), ``classes`` and the
    ``label`` of the shape with the largest mask. In one scene no two shapes share a colour.

    Raises:
        ValueError: a side is under 32 pixels, or the count is not positive.
    """

    classes: list[str] | None
    object_classes: list[str] | None

    def __init__(self, count: int, image_size: tuple[int, int] = (64, 64), seed: int = 0) -> None:
        if count < 1:
            raise ValueError(f"number of scenes {count} must be at least 1; set data.scenes and data.val_scenes")
        if min(image_size) < 32:
            raise ValueError(f"image_size {image_size} is too small for generated scenes; use sides of at least 32 pixels")
        self.count, self.image_size, self.seed = count, image_size, seed
        self.classes = self.object_classes = list(SHAPES)

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"scene-{self.seed}-{index}"

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        numbers = _numbers(self.seed, index)
        ground, picture_HWC, colours = _ground(self.image_size, numbers[:64])
        figures = _place(self.image_size, colours, numbers[64:])
        masks = _paint_all(picture_HWC, figures, numbers[-16:])
        image_HWC = np.clip(picture_HWC * 255 + 0.5, 0, 255).astype(np.uint8)
        classes = torch.tensor([SHAPES.index(figure.shape) for figure in figures])
        return Sample(
            id=self.name(index),
            image=torch.from_numpy(image_HWC).permute(2, 0, 1),
            label=int(classes[int(masks.sum((1, 2)).argmax())]),
            captions=captions(figures, ground),
            questions=questions(figures, float(numbers[1])),
            boxes=_boxes(masks),
            classes=classes,
            masks=torch.from_numpy(masks),
        )


def _numbers(seed: int, index: int) -> Floats:
    """256 random numbers in [0, 1) that belong to one scene; only ``random`` is used, whose stream numpy keeps."""
    key = key_of(seed, index) & (2**64 - 1)
    return np.random.Generator(np.random.Philox(key=key)).random(256, dtype=np.float32)


def _ground(size: tuple[int, int], numbers: Floats) -> tuple[str, Floats, list[str]]:
    """The ground's kind and pixels, and the names of the colours that stand out from it, in random order."""
    kind = GROUNDS[int(numbers[0] * len(GROUNDS))]
    first = 0.2 + 0.6 * numbers[2:5]
    second = np.clip(first + 0.45 * (numbers[5:8] - 0.5) + (0.22 if first.mean() < 0.5 else -0.22), 0.05, 0.95).astype(np.float32)
    names = list(COLOURS)
    palette_KC = np.asarray(list(COLOURS.values()), dtype=np.float32)
    gap_K = np.minimum(np.abs(palette_KC - first).sum(1), np.abs(palette_KC - second).sum(1))
    ranked = np.argsort(numbers[8 : 8 + len(names)] - 10.0 * (gap_K > 0.6), kind="stable")
    return kind, draw_ground(kind, *size, first, second, numbers[20:]), [names[i] for i in ranked]


def _place(size: tuple[int, int], colours: list[str], numbers: Floats) -> list[Figure]:
    """One to four figures that hardly touch; one that finds no room after some tries is left out."""
    height, width = size
    short = min(size)
    wanted = 1 + int(numbers[0] * _MAX_FIGURES)
    figures: list[Figure] = []
    for number in range(wanted):
        base = 4 + 8 * number
        size_name, fraction = _SIZES[int(numbers[base] * (3 if wanted < 4 else 2))] if number else _SIZES[1 + int(numbers[base] * 2)]
        radius = short * fraction * (0.9 + 0.25 * float(numbers[base + 1]))
        turn = (float(numbers[base + 2]) - 0.5) * 0.6
        shape = SHAPES[int(numbers[base + 3] * len(SHAPES))]
        for attempt in range(_TRIES):
            spot = 40 + (2 * (number * 17 + attempt)) % 128
            x = radius + float(numbers[spot]) * (width - 2 * radius)
            y = radius + float(numbers[spot + 1]) * (height - 2 * radius)
            if all((x - f.x) ** 2 + (y - f.y) ** 2 > (0.95 * (radius + f.radius)) ** 2 for f in figures):
                figures.append(Figure(shape, colours[number], size_name, x, y, radius, turn))
                break
    return figures


def _paint_all(picture_HWC: Floats, figures: list[Figure], numbers: Floats) -> NDArray[np.bool_]:
    """Draws all figures in place, the first lowest; returns what remains visible of each, bool ``[objects, H, W]``."""
    masks = np.zeros((len(figures), *picture_HWC.shape[:2]), dtype=np.bool_)
    for number, figure in enumerate(figures):
        tint = 0.08 * (numbers[3 * number : 3 * number + 3] - 0.5)
        rows, columns, mask = paint(picture_HWC, figure, tint)
        masks[:number, rows, columns] &= ~mask
        masks[number, rows, columns] = mask
    return masks


def _boxes(masks: NDArray[np.bool_]) -> torch.Tensor:
    """Left, top, right, bottom (the last two exclusive) of each mask: float32 ``[objects, 4]``."""
    boxes = np.empty((len(masks), 4), dtype=np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        xs, ys = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        box[:] = xs[0], ys[0], xs[-1] + 1, ys[-1] + 1
    return torch.from_numpy(boxes)
