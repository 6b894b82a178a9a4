"""Scenes for proofs with words: colour, shape, size, place and ground of each object drawn independently, and all of them said.

``python -m tools.word_scenes OUT`` writes ``OUT/train`` (scenes of one and of two objects, half and half; a tenth of the pairs of colour
and shape never occurs there) and the galleries ``OUT/one``, ``OUT/two`` and ``OUT/unseen`` (one object of a pair that training never saw),
whose captions are pairwise different: PNG files beside a ``captions.jsonl`` that ``--data.path`` reads, with a caption and some questions
of each, and their answers. Questions name an object by its place, so that each has one answer.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mae_vlm.data.sources.parts.scene_drawing import COLOURS, GROUNDS, SHAPES, Figure, Floats, draw_ground, paint
from mae_vlm.data.sources.parts.scene_words import GROUND_WORDS
from mae_vlm.tokens.chance import key_of

SIDE = 64
SIZES = {"small": 5.0, "medium": 7.5, "large": 10.0}  # radius in pixels
PLACES = ("upper left", "top", "upper right", "left", "centre", "right", "lower left", "bottom", "lower right")
QUESTIONS = 4  # of each scene
_ASKING = 3  # what the chance of questions is keyed with beside the scene's own


@dataclass(frozen=True)
class Scene:
    """What is in a picture, before it is drawn: numbers of the ground, and objects with the places where they are."""

    numbers: Floats
    objects: tuple[tuple[Figure, str], ...]

    @property
    def ground(self) -> str:
        return GROUNDS[int(self.numbers[0] * len(GROUNDS))]

    @property
    def caption(self) -> str:
        told = " and ".join(f"a {one.size} {one.colour} {one.shape} in the {place}" for one, place in self.objects)
        return f"{told} on {GROUND_WORDS[self.ground]} ground"

    def picture(self) -> Image.Image:
        first = 0.35 + 0.3 * self.numbers[2:5]
        second = np.clip(first + 0.3 * (self.numbers[5:8] - 0.5) + 0.15, 0.05, 0.95).astype(np.float32)
        picture_HWC = draw_ground(self.ground, SIDE, SIDE, first, second, self.numbers[20:])
        for figure, _ in self.objects:
            paint(picture_HWC, figure, np.zeros(3, np.float32))
        return Image.fromarray(np.clip(picture_HWC * 255 + 0.5, 0, 255).astype(np.uint8))


def is_held_out(colour: str, shape: str) -> bool:
    """Whether a pair of colour and shape is one of the tenth that training never sees."""
    return (list(COLOURS).index(colour) + SHAPES.index(shape)) % 10 == 0


def scene(seed: int, index: int, objects: int, held_out: bool = False) -> Scene:
    """A pure function of the arguments; with ``held_out`` its pairs of colour and shape are those that training never sees."""
    chance = _chance(seed, index, objects)
    numbers = chance.random(64, dtype=np.float32)
    cells = chance.permutation(len(PLACES))[:objects].tolist()
    return Scene(numbers, tuple((_figure(chance, cell, held_out), PLACES[cell]) for cell in cells))


def _figure(chance: np.random.Generator, cell: int, held_out: bool) -> Figure:
    colour, shape = _pair(chance, held_out)
    size = _one(chance, tuple(SIZES))
    x, y = (SIDE / 3 * (part + 0.5) + 2 * (chance.random() - 0.5) for part in (cell % 3, cell // 3))
    return Figure(shape, colour, size, x, y, SIZES[size], (chance.random() - 0.5) * 0.4)


def _pair(chance: np.random.Generator, held_out: bool) -> tuple[str, str]:
    while True:
        colour, shape = _one(chance, tuple(COLOURS)), _one(chance, SHAPES)
        if is_held_out(colour, shape) == held_out:
            return colour, shape


def questions(told: Scene, chance: np.random.Generator) -> list[tuple[str, str]]:
    """Questions and their answers: which are asked is drawn without a look at the answers; yes and no are as likely."""
    asked = [("how many shapes are there ?", {1: "one", 2: "two"}[len(told.objects)])]
    asked.append(("what is the ground like ?", GROUND_WORDS[told.ground].split()[-1]))
    for one, place in told.objects:
        asked += [(f"what {kind} is the thing in the {place} ?", getattr(one, kind)) for kind in ("colour", "shape", "size")]
        asked += [_whether(kind, one, place, chance) for kind in ("colour", "shape", "size")]
        others = [other for other, _ in told.objects if other is not one]
        if all((one.colour, one.shape) != (other.colour, other.shape) for other in others):
            asked.append((f"where is the {one.colour} {one.shape} ?", place))
    return [asked[number] for number in sorted(chance.permutation(len(asked))[:QUESTIONS].tolist())]


def _whether(kind: str, one: Figure, place: str, chance: np.random.Generator) -> tuple[str, str]:
    """Whether an object is so or otherwise."""
    right = str(getattr(one, kind))
    words: tuple[str, ...] = {"colour": tuple(COLOURS), "shape": SHAPES, "size": tuple(SIZES)}[kind]
    said = right if chance.random() < 0.5 else _one(chance, tuple(word for word in words if word != right))
    return f"is the thing in the {place} {f'a {said}' if kind == 'shape' else said} ?", "yes" if said == right else "no"


def _chance(*numbers: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=key_of(*numbers) & (2**64 - 1)))


def _one(chance: np.random.Generator, some: tuple[str, ...]) -> str:
    return some[int(chance.random() * len(some))]


def write(folder: Path, count: int, seed: int, objects: tuple[int, ...], held_out: bool = False, different: bool = True) -> None:
    """``count`` scenes into a folder; with ``different`` no two of the same caption."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[str] = []
    seen: set[str] = set()
    index = 0
    while len(rows) < count:
        told = scene(seed, index, objects[index % len(objects)], held_out)
        asked = questions(told, _chance(seed, index, len(told.objects), _ASKING))
        index += 1
        if different and told.caption in seen:
            continue
        seen.add(told.caption)
        name = f"{len(rows):06d}.png"
        told.picture().save(folder / name)
        words = {"captions": [told.caption], "questions": [one for one, _ in asked], "answers": [answer for _, answer in asked]}
        rows.append(json.dumps({"image": name} | words))
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
