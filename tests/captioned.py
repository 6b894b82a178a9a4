"""Small towers, and pictures of which some have captions. Shared by the tests of pictures with words."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import torch

from mae_vlm.encoders.text.transformer import Transformer
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.tokens.words import learn
from mae_vlm.types import Batch, Question

# of 16 pictures: none, one or several captions, short and long, some with the same words; the third quarter has none at all
CAPTIONS: list[tuple[str, ...]] = [
    ("a red square", "a small red square above a large blue circle on the left side"), (), ("a blue circle",),
    ("two green stars and a ring",), ("a red square",), ("a yellow cross", "a cross", "one yellow cross in the middle"), (),
    ("a blue circle left of a red ring",), (), (), (), (), ("a large green triangle below a small yellow star on the right",), (), (),
    ("a ring",),
]  # fmt: skip
# of as many pictures: none, one or several questions, one of them without a known answer; again none in the third quarter
_COLOUR = Question("what colour is it", ("red", "red", "blue"))
_SHAPE = Question("which shape is on the left side of the large ring", ("ring",))
QUESTIONS: list[tuple[Question, ...]] = [
    (_COLOUR,), (), (_SHAPE, _COLOUR), (), (_SHAPE,), (Question("how many", ("seven",)), _COLOUR, _SHAPE), (), (), (), (), (), (),
    (Question("how many", ("seven",)),), (_COLOUR,), (), (),
]  # fmt: skip
ANSWERS = ["red", "blue", "ring"]
_WORDS = [text for told in CAPTIONS for text in told]


def vocabulary_file(folder: str | Path) -> str:
    """A vocabulary of these captions, of 80 tokens at most: some words are of several."""
    file = Path(folder) / "vocabulary.json"
    file.write_text(learn(_WORDS, 80).json, encoding="utf-8")
    return str(file)


def a_text(**options) -> Transformer:
    with tempfile.TemporaryDirectory() as place:
        return Transformer(vocabulary=vocabulary_file(place), **{"width": 16, "depth": 1, "heads": 2, "length": 24} | options)


def an_image(**options) -> Vit:
    return Vit(**{"width": 16, "depth": 2, "heads": 2, "patch": 8, "image_size": 32} | options)


def towers(fusion=None, text: dict | None = None, image: dict | None = None, **options) -> Towers:
    """With random weights of some size in float64, of which none is zero: what a part does to its input shows."""
    torch.manual_seed(0)
    house = Towers(an_image(**image or {}), a_text(**text or {}), fusion and partial(fusion, **options)).double()
    return stirred(house).eval()


def stirred(module):
    """The same module with .1 of noise on every weight that is trained."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in module.parameters():
            if weight.requires_grad:
                weight += 0.1 * torch.randn(weight.shape, generator=draw, dtype=torch.float64).to(weight.dtype)
    return module


def a_batch(captions: list[tuple[str, ...]] | None = None, side: int = 32) -> Batch:
    """The 16 pictures with their questions, or as many as there are captions given and none, all of them other noise, twice."""
    questions = QUESTIONS if captions is None else []
    captions = CAPTIONS if captions is None else captions
    count, draw = len(captions), torch.Generator().manual_seed(2)
    images, second = (torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=draw) for _ in range(2))
    names, nothing = [f"picture {number}" for number in range(count)], torch.full((count,), -1)
    return Batch(images, torch.arange(100, 100 + count), nothing < 0, nothing, names, list(captions), questions, second_BCHW=second)
