"""Scenes for proofs with words: colour, shape, size, place and ground of each object drawn independently, and all of them said.

``python -m tools.word_scenes OUT`` writes ``OUT/train`` (scenes of one and of two objects, half and half; a tenth of the pairs of colour
and shape never occurs there) and the galleries ``OUT/one``, ``OUT/two`` and ``OUT/unseen`` (one object of a pair that training never saw),
whose captions are pairwise different: PNG files beside a ``captions.jsonl`` that ``--data.path`` reads.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from mae_vlm.data.sources.parts.scene_drawing import COLOURS, GROUNDS, SHAPES, Figure, draw_ground, paint
from mae_vlm.data.sources.parts.scene_words import GROUND_WORDS
from mae_vlm.tokens.chance import key_of

SIDE = 64
SIZES = {"small": 5.0, "medium": 7.5, "large": 10.0}  # radius in pixels
PLACES = ("upper left", "top", "upper right", "left", "centre", "right", "lower left", "bottom", "lower right")


def is_held_out(colour: str, shape: str) -> bool:
    """Whether a pair of colour and shape is one of the tenth that training never sees."""
    return (list(COLOURS).index(colour) + SHAPES.index(shape)) % 10 == 0


def scene(seed: int, index: int, objects: int, held_out: bool = False) -> tuple[Image.Image, str]:
    """One picture and its caption, a pure function of the arguments; with ``held_out`` its pairs are those that training never sees."""
    chance = np.random.Generator(np.random.Philox(key=key_of(seed, index, objects) & (2**64 - 1)))
    numbers = chance.random(64, dtype=np.float32)
    kind = GROUNDS[int(numbers[0] * len(GROUNDS))]
    first = 0.35 + 0.3 * numbers[2:5]
    second = np.clip(first + 0.3 * (numbers[5:8] - 0.5) + 0.15, 0.05, 0.95).astype(np.float32)
    picture_HWC = draw_ground(kind, SIDE, SIDE, first, second, numbers[20:])
    cells = chance.permutation(len(PLACES))[:objects]
    told = []
    for cell in cells:
        colour, shape = _pair(chance, held_out)
        size = list(SIZES)[int(chance.random() * len(SIZES))]
        x, y = (SIDE / 3 * (part + 0.5) + 2 * (chance.random() - 0.5) for part in (cell % 3, cell // 3))
        paint(picture_HWC, Figure(shape, colour, size, x, y, SIZES[size], (chance.random() - 0.5) * 0.4), np.zeros(3, np.float32))
        told.append(f"a {size} {colour} {shape} in the {PLACES[cell]}")
    pixels_HWC = np.clip(picture_HWC * 255 + 0.5, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels_HWC), f"{' and '.join(told)} on {GROUND_WORDS[kind]} ground"


def _pair(chance: np.random.Generator, held_out: bool) -> tuple[str, str]:
    while True:
        colour, shape = list(COLOURS)[int(chance.random() * len(COLOURS))], SHAPES[int(chance.random() * len(SHAPES))]
        if is_held_out(colour, shape) == held_out:
            return colour, shape


def write(folder: Path, count: int, seed: int, objects: tuple[int, ...], held_out: bool = False, different: bool = True) -> None:
    """``count`` scenes into a folder; with ``different`` no two of the same caption."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[str] = []
    seen: set[str] = set()
    index = 0
    while len(rows) < count:
        picture, caption = scene(seed, index, objects[index % len(objects)], held_out)
        index += 1
        if different and caption in seen:
            continue
        seen.add(caption)
        name = f"{len(rows):06d}.png"
        picture.save(folder / name)
        rows.append(json.dumps({"image": name, "captions": [caption]}))
    (folder / "captions.jsonl").write_text("\n".join(rows) + "\n")


def main() -> None:
    """Write all parts."""
    parser = argparse.ArgumentParser(prog="python -m tools.word_scenes", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=20_000)
    parser.add_argument("--gallery", type=int, default=1_000)
    given = parser.parse_args()
    write(given.out / "train", given.train, 0, (1, 2), different=False)
    for part, objects, held_out in (("one", (1,), False), ("two", (2,), False), ("unseen", (1,), True)):
        write(given.out / part, given.gallery, 1, objects, held_out)


if __name__ == "__main__":
    main()
