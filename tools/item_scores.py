"""Scores that can be taken again over any choice of pictures, and paired intervals of their differences.

A run's ``Items`` hold what each validation picture adds to the score; ``score`` of a choice of pictures is top-1, mean IoU, or average
precision at IoU 0.5 as COCO counts it (101 points of recall, mean over the classes that occur). Letters: N pictures, L classes.
"""

from __future__ import annotations

import csv
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as run_length

from tools.overfit_scores import detections

Numbers = NDArray[Any]


class Items(ABC):
    """What each validation picture adds."""

    count: int

    @abstractmethod
    def score(self, chosen: Numbers) -> float:
        """In percent, over the pictures of these numbers, some of them perhaps several times."""


class Right(Items):
    """Top-1."""

    def __init__(self, right_N: Numbers) -> None:
        self.right_N, self.count = right_N, len(right_N)

    @classmethod
    def of(cls, out: Path, labels: dict[str, str]) -> Right:
        """From ``predictions.csv``, beside the true class of each picture."""
        with (out / "predictions.csv").open() as file:
            told = {row["id"]: row["class"] for row in csv.DictReader(file)}
        return cls(np.array([told[name] == label for name, label in sorted(labels.items())]))

    def score(self, chosen: Numbers) -> float:
        return float(100 * self.right_N[chosen].mean())


class Overlaps(Items):
    """Mean IoU over the classes that occur in truth or answer; pixels of the class ``unknown`` are left out."""

    def __init__(self, inner_NL: Numbers, union_NL: Numbers) -> None:
        self.inner_NL, self.union_NL, self.count = inner_NL, union_NL, len(inner_NL)

    @classmethod
    def of(cls, out: Path, masks: Path, unknown: int) -> Overlaps:
        """From the maps that ``predict`` wrote, beside the true masks."""
        inner, union = [], []
        for file in sorted(masks.glob("*.png")):
            true, told = np.asarray(Image.open(file)), np.asarray(Image.open(out / "maps" / file.name))
            known = true < unknown
            pairs = [(known & (true == kind), known & (told == kind)) for kind in range(unknown)]
            inner.append([int((a & b).sum()) for a, b in pairs])
            union.append([int((a | b).sum()) for a, b in pairs])
        return cls(np.array(inner), np.array(union))

    def score(self, chosen: Numbers) -> float:
        inner_L, union_L = self.inner_NL[chosen].sum(0), self.union_NL[chosen].sum(0)
        seen_L = union_L > 0
        return float(100 * (inner_L[seen_L] / union_L[seen_L]).mean())


class Found(Items):
    """Average precision at IoU 0.5: of each picture and class the answers' scores, which are right, and how many objects there are."""

    def __init__(self, rows: list[dict[int, tuple[Numbers, Numbers, int]]]) -> None:
        self.rows, self.count = rows, len(rows)
        self.classes = sorted({kind for row in rows for kind, (_, _, true) in row.items() if true})

    @classmethod
    def of(cls, out: Path, truth: Path, key: str) -> Found:
        """From ``detections.json``, beside COCO's ``truth``; ``key`` is ``bbox`` or ``segmentation``."""
        true, told = json.loads(truth.read_text()), detections(truth, out)
        sizes = {image["id"]: (image["height"], image["width"]) for image in true["images"]}
        rows = []
        for image in sorted(sizes):
            mine = [one for one in told if one["image_id"] == image]
            theirs = [one for one in true["annotations"] if one["image_id"] == image]
            kinds = {one["category_id"] for one in (*mine, *theirs)}
            rows.append({kind: _matched(_of(mine, kind), _of(theirs, kind), key, sizes[image]) for kind in kinds})
        return cls(rows)

    def score(self, chosen: Numbers) -> float:
        return float(100 * np.mean([self._precision([self.rows[number].get(kind) for number in chosen]) for kind in self.classes]))

    def _precision(self, parts: list[tuple[Numbers, Numbers, int] | None]) -> float:
        kept = [part for part in parts if part is not None]
        true = sum(part[2] for part in kept)
        if not true or not any(len(part[0]) for part in kept):
            return 0.0
        scores, right = (np.concatenate([part[place] for part in kept]) for place in (0, 1))
        order = np.argsort(-scores, kind="mergesort")
        hits = np.cumsum(right[order])
        recall, precision = hits / true, hits / np.arange(1, len(hits) + 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        places = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
        return float(np.append(precision, 0.0)[np.minimum(places, len(precision))].mean())


def _of(found: list[dict[str, Any]], kind: int) -> list[dict[str, Any]]:
    return [one for one in found if one["category_id"] == kind]


def _matched(mine: list[dict[str, Any]], theirs: list[dict[str, Any]], key: str, size: tuple[int, int]) -> tuple[Numbers, Numbers, int]:
    """Scores of the best hundred answers, whether each has an object of its own at IoU 0.5 or more, and how many objects there are.

    As COCO matches: the surest answer first, each to the free object that it covers best; answers on crowds alone are left out.
    """
    mine = sorted(mine, key=lambda one: -one["score"])[:100]
    crowds = [int(one.get("iscrowd", 0)) for one in theirs]
    shapes = [[_shape(one[key], key, size) for one in some] for some in (mine, theirs)]
    if not mine or not theirs:
        return np.array([one["score"] for one in mine]), np.zeros(len(mine), np.bool_), len(theirs) - sum(crowds)
    overlap = run_length.iou(shapes[0], shapes[1], crowds)
    free = np.array(crowds) == 0
    scores, right = [], []
    for number, one in enumerate(mine):
        best = np.where(free, overlap[number], -1).argmax()
        hit = bool(free[best] and overlap[number, best] >= 0.5)
        if not hit and any(crowd and overlap[number, place] >= 0.5 for place, crowd in enumerate(crowds)):
            continue
        free[best] &= not hit
        scores.append(one["score"])
        right.append(hit)
    return np.array(scores), np.array(right, np.bool_), len(theirs) - sum(crowds)


def _shape(told: Any, key: str, size: tuple[int, int]) -> Any:
    if key == "bbox":
        return [float(number) for number in told]
    if isinstance(told, list):
        return run_length.merge(run_length.frPyObjects(told, *size))
    return told if isinstance(told["counts"], (str, bytes)) else run_length.frPyObjects(told, *size)


def interval(ours: list[Items], theirs: list[Items], draws: int = 1000) -> tuple[float, float, float]:
    """Mean difference over the seeds, and its 95 % interval: pictures and seeds drawn again, the same for both sides.

    Raises:
        ValueError: the sides are not of as many runs over as many pictures.
    """
    if len(ours) != len(theirs) or len({one.count for one in (*ours, *theirs)}) != 1:
        raise ValueError(f"{len(ours)} runs against {len(theirs)} given; pairs of runs over the same pictures can be compared")
    chance, count, pairs = np.random.default_rng(0), ours[0].count, list(zip(ours, theirs, strict=True))

    def difference(chosen: Numbers, seeds: Numbers) -> float:
        return float(np.mean([pairs[seed][0].score(chosen) - pairs[seed][1].score(chosen) for seed in seeds]))

    whole = difference(np.arange(count), np.arange(len(pairs)))
    drawn = [difference(chance.integers(count, size=count), chance.integers(len(pairs), size=len(pairs))) for _ in range(draws)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return whole, float(low), float(high)
