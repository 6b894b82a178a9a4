"""What pretraining is worth to each head on real sets: the same network from scratch, from MAE on the set, from MAE on all sets.

``python -m tools.heads_worth SET [SET ...]`` runs what is missing below ``--out`` (killed, it goes on), one command of the package after
another, then prints a table. Every start is fine-tuned by ``configs/finetune/quick_*.yaml`` with the set's options: scratch with three
learning rates and 1, 4 and 16 times the steps (``--multiples``), the pretrained ones with the middle rate and 1 times. All learn on the
train part and are scored from ``predict``'s files on the validation part. "All sets" is the train part of each set of photos, less
what looks like any set's validation picture. Differences are of pairs of runs, seed by seed, with a 95 % interval over seeds and pictures.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean

import numpy as np

from tools.item_scores import Found, Items, Overlaps, Right, interval
from tools.photo_union import PHOTOS, write_union
from tools.stages import run_stage

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "finetune"
_ENCODER = ("--model.encoder.width", "128", "--model.encoder.depth", "6", "--model.encoder.heads", "4", "--model.encoder.patch", "8")
_QUIET = ("--probes.pictures", "0", "--data.num_workers", "0", "--pictures.count", "1", "--trainer.limit_val_batches", "1")
_MAE_SIDE = "64"  # crops of a fifth of a picture and more: near the scale that heads see whole pictures at
_FACTORS = (0.5, 1.0, 2.0)  # of the middle learning rate


@dataclass(frozen=True)
class Case:
    """A head on a set of ``data``: ``image_size``, fine-tuning ``steps`` of ``batch`` pictures, and how its answers are scored."""

    data: str
    config: str
    image_size: str
    steps: int
    batch: int
    base_lr: float
    items: Callable[[Path, Path], Items]
    options: tuple[str, ...] = ()


def _top1(out: Path, data: Path) -> Items:
    from mae_vlm.data.collection import open_collection
    from mae_vlm.data.sources.base import Place

    part = open_collection(Place(str(data))).parts["val"]
    assert part.classes is not None
    labels = {part.name(number): part[number].label for number in range(len(part))}
    return Right.of(out, {name: part.classes[label] for name, label in labels.items() if label is not None})


def _mean_iou(out: Path, data: Path) -> Items:
    return Overlaps.of(out, data / "val" / "masks", 11)


def _boxes(out: Path, data: Path) -> Items:
    return Found.of(out, data / "val" / "instances.json", "bbox")


def _masks(out: Path, data: Path) -> Items:
    return Found.of(out, data / "val" / "instances.json", "segmentation")


_COCO = ("--data.annotations", "instances.json")
CASES = {
    "tiny": Case("tiny-imagenet-20", "quick_classify", "64", 400, 64, 4e-3, _top1),
    "street": Case("camvid", "quick_segment", "[96, 128]", 200, 16, 1.6e-2, _mean_iou, ("--model.heads.segment.ignore", "[11]")),
    "street_masks": Case("camvid", "quick_masks", "[96, 128]", 200, 16, 8e-3, _mean_iou, ("--model.heads.masks.task", "semantic")),
    "cells": Case("bccd", "quick_detect", "[96, 128]", 200, 16, 8e-3, _boxes, _COCO),
    "cells_queries": Case("bccd", "quick_queries", "[96, 128]", 200, 16, 8e-3, _boxes, _COCO),
    "nuclei": Case("dsb2018-nuclei", "quick_masks", "128", 200, 16, 8e-3, _masks, (*_COCO, "--model.heads.masks.queries", "100")),
}


@dataclass(frozen=True)
class Unit:
    """One fine-tuning."""

    start: str
    factor: float
    multiple: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.start}-lr{self.factor:g}-x{self.multiple}-seed{self.seed}"


class Bench:
    """What is measured of one case below ``out``."""

    def __init__(self, name: str, given: argparse.Namespace) -> None:
        self.case, self.given = CASES[name], given
        self.data, self.out = given.data / self.case.data, given.out / name
        self._items: dict[Unit, Items] = {}

    def units(self) -> list[Unit]:
        """In the order of their worth to the table: the cheap ones first."""
        found = []
        for seed in range(self.given.seeds):
            found += [Unit(start, 1.0, 1, seed) for start in ("scratch", "own", "union")]
            found += [Unit("scratch", factor, 1, seed) for factor in _FACTORS if factor != 1]
        return found + [Unit("scratch", factor, more, 0) for more in self.given.multiples if more > 1 for factor in _FACTORS]

    def measure(self, unit: Unit) -> None:
        """Train, predict; nothing where that was done."""
        folder, case = self.out / unit.name, self.case
        weights = ["--model.weights", str(self._pretrained(unit)[0])] if unit.start != "scratch" else list(_ENCODER)
        words = ["fit", "--config", str(CONFIGS / f"{case.config}.yaml"), *self._data(), *weights, *case.options, *_QUIET]
        words += ["--data.batch_size", str(case.batch), "--trainer.max_steps", str(case.steps * unit.multiple)]
        words += ["--model.optimizer.base_lr", str(case.base_lr * unit.factor), "--seed_everything", str(unit.seed)]
        run_stage(folder, "fit", [*words, "--ckpt_path", "auto", "--trainer.default_root_dir", str(folder), "--name", "run"])
        pictures = self.data / "val"
        images = pictures / "images" if (pictures / "images").is_dir() else pictures
        answers = ["--ckpt_path", str(folder / "run" / "version_0" / "checkpoints" / "last.ckpt"), "--data.path", str(images)]
        run_stage(folder, "predict", ["predict", *answers, "--out", str(folder / "predicted")])

    def _pretrained(self, unit: Unit) -> tuple[Path, float]:
        """The run of MAE, and what it cost."""
        given, union = self.given, unit.start == "union"
        root = given.out / "union" if union else self.out
        name = f"mae-seed{unit.seed}"
        pictures = _union(given.data, given.out) if union else self.data
        words = ["fit", "--data.path", str(pictures), "--data.image_size", _MAE_SIDE, *_ENCODER, *_QUIET]
        words += ["--data.batch_size", "64", "--trainer.max_steps", str(given.mae_steps), "--seed_everything", str(unit.seed)]
        seconds = run_stage(root, name, [*words, "--ckpt_path", "auto", "--trainer.default_root_dir", str(root), "--name", name])
        return root / name / "version_0", seconds

    def _data(self) -> list[str]:
        return ["--data.path", str(self.data), "--data.image_size", self.case.image_size]

    def seconds(self, unit: Unit) -> float:
        """Processor seconds of a fine-tuning with the pretraining before it."""
        before = 0.0 if unit.start == "scratch" else self._pretrained(unit)[1]
        return before + run_stage(self.out / unit.name, "fit", [])

    def items(self, unit: Unit) -> Items:
        """What each validation picture adds to the score."""
        if unit not in self._items:
            self._items[unit] = self.case.items(self.out / unit.name / "predicted", self.data)
        return self._items[unit]

    def done(self, unit: Unit) -> bool:
        told: Path = self.out / unit.name / "predict.json"
        return told.exists()

    def score(self, unit: Unit) -> float:
        found = self.items(unit)
        return found.score(np.arange(found.count))

    def rows(self) -> list[list[str]]:
        """Of the table: start, its setting, score, processor seconds, and the difference to the best scratch of as many steps and seeds."""
        done = [unit for unit in self.units() if self.done(unit)]
        found = []
        for setting in dict.fromkeys((unit.start, unit.factor, unit.multiple) for unit in done):
            runs = [unit for unit in done if (unit.start, unit.factor, unit.multiple) == setting]
            scores, seconds = [self.score(unit) for unit in runs], mean(self.seconds(unit) for unit in runs)
            spread = f" ({min(scores):.1f} to {max(scores):.1f}, {len(runs)} seeds)" if len(runs) > 1 else " (1 seed)"
            start, factor, multiple = setting
            found.append(
                [start, f"{factor:g}x", f"{multiple}x", f"{mean(scores):.1f}{spread}", f"{seconds:.0f}", self._against(runs, done)]
            )
        return found

    def _against(self, runs: list[Unit], done: list[Unit]) -> str:
        """The paired difference to scratch with its best rate at as many steps."""
        if runs[0].start == "scratch":
            return ""
        rivals = [[Unit("scratch", factor, 1, unit.seed) for unit in runs] for factor in _FACTORS]
        whole = [rival for rival in rivals if all(unit in done for unit in rival)]
        if not whole:
            return "no scratch of as many seeds"
        best = max(whole, key=lambda rival: mean(self.score(unit) for unit in rival))
        ours, theirs = ([self.items(unit) for unit in side] for side in (runs, best))
        return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*interval(ours, theirs))


@cache
def _union(data: Path, out: Path) -> Path:
    return write_union({name: data / name for name in PHOTOS}, out / "photos")


def table(benches: dict[str, Bench]) -> str:
    """All cases as markdown."""
    titles = ["set", "start", "learning rate", "steps", "score", "processor s, pretraining included", "to scratch at equal steps, 95 %"]
    lines = [titles, ["---"] * len(titles)]
    lines += [[name, *row] for name, bench in benches.items() for row in bench.rows()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Measure what is missing, then print the table and write it as ``table.csv``."""
    parser = argparse.ArgumentParser(prog="python -m tools.heads_worth", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("cases", nargs="*", metavar="SET", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--data", type=Path, default=DATA, help="the folder that holds the sets")
    parser.add_argument("--out", type=Path, default=Path("runs/heads_worth"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--mae-steps", type=int, default=1000)
    parser.add_argument("--multiples", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--table", action="store_true", help="run nothing")
    given = parser.parse_args()
    benches = {name: Bench(name, given) for name in given.cases or CASES}
    for units in [] if given.table else zip(*(bench.units() for bench in benches.values()), strict=True):  # all sets go on together
        for bench, unit in zip(benches.values(), units, strict=True):
            bench.measure(unit)
            print(json.dumps({"set": bench.out.name, "unit": unit.name, "score": round(bench.score(unit), 2)}), flush=True)
    print(table(benches))
    with (given.out / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([name, *row] for name, bench in benches.items() for row in bench.rows())


if __name__ == "__main__":
    main()
