"""What a run of pictures with words is worth on scenes that it never saw: ``python -m tools.words_worth RUN SCENES``.

SCENES is what ``python -m tools.word_scenes`` wrote. For each gallery (one object, two, and one of a pair of colour and shape that training
never saw) of 1,000 pictures with pairwise different captions: recall at 1 both ways; matching of the right caption against
one in which a single word is another, half and half; and each word of the picture hidden in turn: told with the picture, with another
one's, and by a twin that sees none (an objective ``blind``, where the run has one). Shares in percent.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mae_vlm.cli.training import Training
from mae_vlm.data.sources.parts.scene_drawing import COLOURS, SHAPES
from mae_vlm.data.sources.parts.scene_words import GROUND_WORDS
from mae_vlm.encoders.features import Features
from mae_vlm.learners.pretrain import Pretrainer
from mae_vlm.objectives.masked_language import MaskedLanguage
from mae_vlm.objectives.matching import Matching
from mae_vlm.tokens.masked_words import MaskedWords
from mae_vlm.types import Batch
from tools.word_scenes import PLACES, SIZES

GALLERIES = ("one", "two", "unseen")
KINDS: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "size": tuple(SIZES),
    "ground": tuple(words.split()[-1] for words in GROUND_WORDS.values()),
    "place": tuple(dict.fromkeys(word for place in PLACES for word in place.split())),
}


def kind_of(word: str) -> str | None:
    """What a word of a caption tells of, None for words that hold a sentence together."""
    return next((kind for kind, words in KINDS.items() if word in words), None)


def changed(caption: str, number: int) -> str:
    """The caption with one word another of its kind; which is drawn from ``number``. Places stay places that exist."""
    words = caption.split()
    chance = torch.Generator().manual_seed(number)
    places = [place for place, word in enumerate(words) if kind_of(word) not in (None, "place")]
    at = places[int(torch.randint(len(places), (), generator=chance))]
    others = [word for word in KINDS[str(kind_of(words[at]))] if word != words[at]]
    words[at] = others[int(torch.randint(len(others), (), generator=chance))]
    return " ".join(words)


class Tally:
    """Hits of how many tries, by name."""

    def __init__(self) -> None:
        self.hits: dict[str, int] = {}
        self.tries: dict[str, int] = {}

    def add(self, name: str, right: Tensor) -> None:
        self.hits[name] = self.hits.get(name, 0) + int(right.sum())
        self.tries[name] = self.tries.get(name, 0) + right.numel()

    def percent(self) -> dict[str, float]:
        return {name: round(100 * hits / self.tries[name], 1) for name, hits in self.hits.items()}


@torch.inference_mode()
def look(model: Pretrainer, batch: Batch, first: int, tally: Tally) -> None:
    """Matching and hidden words of one batch of a gallery, whose first picture is number ``first``."""
    parts = model._parts()
    features = model.features(batch)
    captions = [told[0] for told in batch.captions]
    for part in parts.values():
        if isinstance(part, Matching):
            wrong = [changed(caption, first + place) for place, caption in enumerate(captions)]
            for texts, right in ((captions, 1), (wrong, 0)):
                text = features.read(model.towers.told_text().words(texts))
                tally.add("matching", part.head(features.fuse(text).pooled_BD).argmax(1) == right)
    seen = [part for part in parts.values() if isinstance(part, MaskedLanguage)]
    for part in seen:
        _hidden(model, part, features, captions, tally)


def _hidden(model: Pretrainer, part: MaskedLanguage, features: Features, captions: list[str], tally: Tally) -> None:
    """Every word that the picture tells, hidden in turn."""
    tower = model.towers.told_text()
    rows = [(picture, place, word) for picture, told in enumerate(captions) for place, word in enumerate(told.split()) if kind_of(word)]
    words = tower.words([captions[picture] for picture, _, _ in rows])
    place_R = torch.tensor([place for _, place, _ in rows])
    here_RT = words.word_BT == place_R[:, None]
    slots_R1 = here_RT.int().argmax(1, keepdim=True)
    single_R = here_RT.sum(1) == 1  # a word of several pieces would have to be told piece by piece
    mask = tower.vocabulary.mask
    assert mask is not None
    shown = replace(words, ids_BT=torch.where(here_RT, mask, words.ids_BT))
    masked = MaskedWords(shown, slots_R1, words.ids_BT.gather(1, slots_R1), single_R[:, None])
    picture_R = torch.tensor([picture for picture, _, _ in rows])
    text = features.read(shown)
    views = {"blind": None} if not part.picture else {"words": picture_R, "words, another picture": (picture_R + 1) % len(captions)}
    for name, picture in views.items():
        tokens = text.tokens_BTD if picture is None else features.fuse(text, features.seen.rows(picture)).tokens_BTD
        assert tokens is not None
        right_R = part._told(features, masked, tokens)[:, 0].argmax(-1) == masked.truth_BS[:, 0]
        tally.add(name, right_R[single_R])


def examine(run: str, folder: Path) -> dict[str, Any]:
    """All figures of one gallery."""
    words = ["--ckpt_path", run, "--data.path", str(folder), "--data.val_path", str(folder), "--trainer.accelerator", "cpu"]
    training = Training("validate", [*words, "--trainer.precision", "32-true", "--data.batch_size", "100"])
    model, tally = training.model, Tally()
    assert isinstance(model, Pretrainer)
    told = {name: 100 * float(value) for name, value in training.trainer.callback_metrics.items() if name.endswith("_r1")}
    model.eval()
    first = 0
    for batch in training.datamodule.val_dataloader():
        look(model, batch, first, tally)
        first += len(batch)
    return {name.removeprefix("val/"): round(value, 1) for name, value in told.items()} | tally.percent() | {"pictures": first}


def main() -> None:
    """Print a line of JSON for each gallery."""
    parser = argparse.ArgumentParser(prog="python -m tools.words_worth", description=__doc__)
    parser.add_argument("run")
    parser.add_argument("scenes", type=Path)
    given = parser.parse_args()
    for gallery in GALLERIES:
        print(json.dumps({"gallery": gallery} | examine(given.run, given.scenes / gallery)), flush=True)


if __name__ == "__main__":
    main()
