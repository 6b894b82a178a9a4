"""What a run of pictures with words is worth on scenes that it never saw: ``python -m tools.words_worth RUN SCENES``.

SCENES is what ``python -m tools.word_scenes`` wrote. For each gallery (one object, two, and one of a pair of colour and shape that training
never saw) of 1,000 pictures with pairwise different captions: recall at 1 both ways, and in what the picture differs that a
caption finds instead; matching of the right caption against one in which a single word is another, half and half, by each objective
that tells them apart; and each word of the picture hidden in turn: told with the picture, also by what the word tells of, with another
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
from mae_vlm.objectives.swapped_word import SwappedWord
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
        return {name: round(100 * hits / self.tries[name], 1) for name, hits in self.hits.items() if self.tries[name]}


class Places:
    """Where the pictures of a gallery and their captions lie in the space that they share."""

    def __init__(self) -> None:
        self.images: list[Tensor] = []
        self.texts: list[Tensor] = []
        self.captions: list[str] = []

    def add(self, features: Features, captions: list[str]) -> None:
        if (found := features.embedded) is not None:
            self.images.append(found.image_BE)
            self.texts.append(found.text_BE)
            self.captions += captions

    def tell(self, tally: Tally) -> None:
        """Recall at 1 both ways, and for each caption that finds another picture what differs there: of all such captions."""
        if not self.captions:
            return
        near_GG, own_G = torch.cat(self.texts) @ torch.cat(self.images).T, torch.arange(len(self.captions))
        tally.add("text to image", near_GG.argmax(1) == own_G)
        tally.add("image to text", near_GG.argmax(0) == own_G)
        for own, other in enumerate(near_GG.argmax(1).tolist()):
            if own != other:
                for kind in KINDS:
                    one, instead = ([word for word in self.captions[at].split() if kind_of(word) == kind] for at in (own, other))
                    tally.add(f"missed by {kind}", torch.tensor([one != instead]))


@torch.inference_mode()
def look(model: Pretrainer, batch: Batch, first: int, tally: Tally, places: Places) -> None:
    """One batch of a gallery, whose first picture is number ``first``."""
    parts = model._parts()
    features = model.features(batch)
    captions = [told[0] for told in batch.captions]
    places.add(features, captions)
    wrong = [changed(caption, first + place) for place, caption in enumerate(captions)]
    for name, part in parts.items():
        if isinstance(part, Matching | SwappedWord):
            for texts, right in ((captions, 1), (wrong, 0)):
                text = features.read(model.towers.told_text().words(texts))
                tally.add(name, part.head(features.fuse(text).pooled_BD).argmax(1) == right)
        if isinstance(part, MaskedLanguage):
            _hidden(model, part, features, captions, tally)


def _hidden(model: Pretrainer, part: MaskedLanguage, features: Features, captions: list[str], tally: Tally) -> None:
    """Every word that the picture tells, hidden in turn; but for those of several tokens, which would have to be told piece by piece."""
    tower = model.towers.told_text()
    rows = [(picture, place, word) for picture, told in enumerate(captions) for place, word in enumerate(told.split()) if kind_of(word)]
    words = tower.words([captions[picture] for picture, _, _ in rows])
    here_RT = words.word_BT == torch.tensor([place for _, place, _ in rows])[:, None]
    single_R = here_RT.sum(1) == 1
    slot_R1 = here_RT.int().argmax(1, keepdim=True)
    truth_R = words.ids_BT.gather(1, slot_R1)[:, 0]
    mask = tower.vocabulary.mask
    assert mask is not None
    text = features.read(replace(words, ids_BT=torch.where(here_RT, mask, words.ids_BT)))
    own_R = torch.tensor([picture for picture, _, _ in rows])
    views = {"words": own_R, "words, another picture": (own_R + 1) % len(captions)} if part.picture else {"blind": None}
    for name, picture_R in views.items():
        tokens_RTD = text.tokens_BTD if picture_R is None else features.fuse(text, features.seen.rows(picture_R)).tokens_BTD
        assert tokens_RTD is not None
        slot_R1D = tokens_RTD.gather(1, slot_R1[..., None].expand(-1, -1, tokens_RTD.shape[-1]))
        right_R = part.head(slot_R1D, features.word_table)[:, 0].argmax(-1) == truth_R
        tally.add(name, right_R[single_R])
        for kind in KINDS if name == "words" else ():
            of_kind_R = torch.tensor([kind_of(word) == kind for _, _, word in rows])
            tally.add(f"words, {kind}", right_R[single_R & of_kind_R])


def examine(run: str, folder: Path) -> dict[str, Any]:
    """All figures of one gallery."""
    words = ["--ckpt_path", run, "--data.path", str(folder), "--data.val_path", str(folder), "--trainer.accelerator", "cpu"]
    training = Training(
        "validate", [*words, "--trainer.precision", "32-true", "--data.batch_size", "100", "--trainer.limit_val_batches", "1"]
    )
    model, tally, places = training.model, Tally(), Places()
    assert isinstance(model, Pretrainer)
    model.eval()
    first = 0
    for batch in training.datamodule.val_dataloader():
        look(model, batch, first, tally, places)
        first += len(batch)
    places.tell(tally)
    return tally.percent() | {"pictures": first}


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
