"""Classification by names alone: each class is where sentences with its name lie (CLIP, arXiv 2103.00020, 3.1.4).

Letters: B pictures, L classes, E numbers of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from mae_vlm.index.model import Model
from mae_vlm.index.pictures import Read
from mae_vlm.types import Broken

TEMPLATES = ("{}", "a {}", "a photo of a {}", "a picture of a {}")
_HELD = 5


def read_templates(file: Path) -> list[str]:
    """A sentence a line, with {} in the place of the name.

    Raises:
        ValueError: none, or one without that place.
        OSError: no such file.
    """
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    wrong = [line for line in lines if line.count("{}") != 1]
    if wrong or not lines:
        told = f"line {wrong[0]!r} must have {{}} once, for the name of the class" if wrong else "no template is in it"
        raise ValueError(f"--templates {file}: {told}; give such as: a photo of a {{}}")
    return lines


def places(model: Model, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Where each class lies ``[L, E]``, of unit length: the mean over all templates."""
    said = [name.replace("_", " ") for name in names]
    mean_LE = torch.stack([model.of_texts([template.replace("{}", name) for name in said]) for template in templates]).mean(0)
    return functional.normalize(mean_LE, dim=1)


@dataclass
class Tally:
    """What was answered: the best classes of each picture with their cosines, and, where labels are known, who was right.

    ``confusion_LL`` counts pictures by true and by answered class, ``among_L`` those whose class was among the best five.
    """

    names: list[str]
    answers: list[tuple[str, list[tuple[str, float]]]] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    confusion_LL: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    among_L: Tensor = field(default_factory=lambda: torch.zeros(0))

    @property
    def labelled(self) -> int:
        return int(self.confusion_LL.sum())

    @property
    def top1(self) -> float:
        return float(self.confusion_LL.diag().sum() / self.confusion_LL.sum())

    @property
    def top5(self) -> float:
        return float(self.among_L.sum() / self.confusion_LL.sum())

    def rows(self) -> list[list[str]]:
        """A table of the classes: pictures, shares right and among the best five, and what it is mostly taken for where it is wrong."""
        table = [["class", "pictures", "top1", "top5", "taken for"]]
        for number, name in enumerate(self.names):
            count = int(self.confusion_LL[number].sum())
            if not count:
                table.append([name, "0", "", "", ""])
                continue
            wrong_L = self.confusion_LL[number].clone().index_fill(0, torch.tensor([number]), 0)
            other = f"{self.names[int(wrong_L.argmax())]} ({int(wrong_L.max())})" if wrong_L.any() else ""
            shares = [f"{float(part) / count:.4f}" for part in (self.confusion_LL[number, number], self.among_L[number])]
            table.append([name, str(count), *shares, other])
        return table


def classify(model: Model, reads: Iterable[Read], name: Callable[[int], str], names: list[str], templates: Sequence[str]) -> Tally:
    """Answer every picture; ``name`` gives that of each number."""
    places_LE, count = places(model, names, templates), len(names)
    tally = Tally(names, confusion_LL=torch.zeros(count, count), among_L=torch.zeros(count))
    for read in reads:
        tally.broken += read.broken
        if not read.numbers:
            continue
        best = (model.of_images(read.images_BCHW) @ places_LE.T).topk(min(_HELD, count), dim=1)
        for number, classes, scores in zip(read.numbers, best.indices.tolist(), best.values.tolist(), strict=True):
            tally.answers.append((name(number), [(names[one], score) for one, score in zip(classes, scores, strict=True)]))
        labels_B = torch.tensor(read.labels)
        known_B = labels_B >= 0
        labels_b, best_b5 = labels_B[known_B], best.indices[known_B]
        tally.confusion_LL.index_put_((labels_b, best_b5[:, 0]), torch.ones(len(labels_b)), accumulate=True)
        tally.among_L.index_add_(0, labels_b, (best_b5 == labels_b[:, None]).any(1).float())
    return tally
