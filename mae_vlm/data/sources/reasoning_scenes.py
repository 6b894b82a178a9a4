"""Generated scenes to reason about, by address: ``scenes://pairs`` and ``scenes://choices``.

One figure a picture, its colour, shape and place drawn independently. What is said of them is right as often as wrong, or one of four,
whatever the words are: who does not see the pictures can only guess.

``scenes://pairs?train=6000&val=200&side=64&seed=0`` states all options.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import torch
from torch import Tensor

from mae_vlm.data.sources.base import Source
from mae_vlm.data.sources.parts.scene_drawing import Figure, draw_ground, paint
from mae_vlm.tokens.chance import key_of
from mae_vlm.types import Question, Sample

PREFIX = "scenes://"
SHOWN_COLOURS = ("red", "green", "blue", "yellow", "white", "black")
SHOWN_SHAPES = ("circle", "triangle", "star", "ring")
PLACES = ("upper left", "upper right", "lower left", "lower right")
_OPTIONS = {"train": 6000, "val": 200, "side": 64, "seed": 0}
_OTHER = 1_000_003  # added to the seed: validation scenes are never training scenes
_SIDES = ("left", "right")


class Reasoned(Source):
    """``count`` samples of pictures of ``side`` x ``side`` pixels; sample i is a pure function of (seed, i, side).

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(self, count: int, side: int = 64, seed: int = 0) -> None:
        if count < 1 or side < 32:
            raise ValueError(f"{count} scenes of {side} pixels given, allowed are 1 or more of sides of 32 or more; correct data.path")
        self.count, self.side, self.seed = count, side, seed

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"{type(self).__name__.lower()}-{self.seed}-{index}"

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        return self._sample(self.name(index), np.random.Generator(np.random.Philox(key=key_of(self.seed, index) & (2**64 - 1))))

    @abstractmethod
    def _sample(self, name: str, chance: np.random.Generator) -> Sample: ...

    def _drawn(self, chance: np.random.Generator) -> tuple[Tensor, Figure, str]:
        """A picture, its figure, and the words for its place."""
        number = int(chance.integers(len(PLACES)))
        x, y = (self.side * (0.28 + 0.44 * part + 0.06 * (chance.random() - 0.5)) for part in (number % 2, number // 2))
        radius = self.side * (0.18 + 0.06 * chance.random())
        colour, shape = _one(chance, SHOWN_COLOURS), _one(chance, SHOWN_SHAPES)
        figure = Figure(shape, colour, "large", x, y, radius, (chance.random() - 0.5) * 0.4)
        ground = (0.4 + 0.2 * chance.random(3)).astype(np.float32)
        picture_HWC = draw_ground("gradient", self.side, self.side, ground, ground + np.float32(0.1), chance.random(40).astype(np.float32))
        paint(picture_HWC, figure, np.zeros(3, np.float32))
        pixels_HWC = np.clip(picture_HWC * 255 + 0.5, 0, 255).astype(np.uint8)
        return torch.from_numpy(pixels_HWC).permute(2, 0, 1), figure, PLACES[number]


class ScenePairs(Reasoned):
    """Pairs of pictures with two statements each, half of them true: of one side's figure, of its colour or shape, or of both at once."""

    def _sample(self, name: str, chance: np.random.Generator) -> Sample:
        (left_CHW, left, _), (right_CHW, right, _) = self._drawn(chance), self._drawn(chance)
        statements = tuple(_statement(chance, (left, right)) for _ in range(2))
        return Sample(name, left_CHW, questions=statements, partner=right_CHW)


class SceneChoices(Reasoned):
    """A picture with four answers to what it shows, of which two have the right colour and two the right shape, and four reasons."""

    def _sample(self, name: str, chance: np.random.Generator) -> Sample:
        image_CHW, figure, place = self._drawn(chance)
        colours = (figure.colour, _other(chance, SHOWN_COLOURS, figure.colour))
        shapes = (figure.shape, _other(chance, SHOWN_SHAPES, figure.shape))
        right = f"a {figure.colour} {figure.shape}"
        asked = Question("what is shown?", (right,), _shuffled(chance, [f"a {colour} {shape}" for colour in colours for shape in shapes]))
        reasons = _shuffled(chance, [f"it is in the {one}" for one in PLACES])
        why = Question(f"{asked.text} {right}", (f"it is in the {place}",), reasons, rationale=True)
        return Sample(name, image_CHW, questions=(asked, why))


def _statement(chance: np.random.Generator, pair: tuple[Figure, Figure]) -> Question:
    """Something about a pair; truth is drawn before the words."""
    true = bool(chance.random() < 0.5)
    side, kind = int(chance.integers(2)), int(chance.integers(3))
    one = pair[side]
    colour = one.colour if true else _other(chance, SHOWN_COLOURS, one.colour)
    shape = one.shape if true else _other(chance, SHOWN_SHAPES, one.shape)
    if kind == 0:
        text = f"the {_SIDES[side]} figure is {colour}"
    elif kind == 1:
        text = f"the {_SIDES[side]} figure is a {shape}"
    else:
        other = pair[1 - side].colour
        text = f"the {_SIDES[side]} figure is {colour} and the {_SIDES[1 - side]} one is {other}"
    return Question(text, ("true" if true else "false",))


def _one(chance: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[int(chance.integers(len(names)))]


def _other(chance: np.random.Generator, names: tuple[str, ...], than: str) -> str:
    return _one(chance, tuple(name for name in names if name != than))


def _shuffled(chance: np.random.Generator, texts: list[str]) -> tuple[str, ...]:
    return tuple(texts[number] for number in chance.permutation(len(texts)))


_KINDS: dict[str, Any] = {"pairs": ScenePairs, "choices": SceneChoices}


def open_address(path: str) -> dict[str, Source]:
    """The parts that an address stands for.

    Raises:
        ValueError: another kind, or an unknown option.
    """
    address = urlsplit(path)
    given = dict(parse_qsl(address.query, keep_blank_values=True))
    numbers = {name: int(value) for name, value in given.items() if name in _OPTIONS and re.fullmatch(r"\d{1,9}", value)}
    if address.netloc not in _KINDS or numbers.keys() != given.keys():
        allowed = "&".join(f"{name}={value}" for name, value in _OPTIONS.items())
        kinds = " or ".join(PREFIX + kind for kind in _KINDS)
        raise ValueError(f"data.path {path} is no generated collection; write {kinds}, with ?{allowed} where they shall be others")
    kind, options = _KINDS[address.netloc], _OPTIONS | numbers
    parts: dict[str, Source] = {"train": kind(options["train"], options["side"], options["seed"])}
    if options["val"]:
        parts["val"] = kind(options["val"], options["side"], options["seed"] + _OTHER)
    return parts
