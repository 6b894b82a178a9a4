"""Whether a head's geometry is right: 8 real pictures learned by heart, scored from ``predict``'s files, beside what the truth scores.

``python -m tools.overfit nuclei`` (nuclei_rcnn, cells, cells_dense, things, street) takes the 8 pictures, pretrains MAE for some minutes
on the whole set's training pictures, fits ``configs/finetune/overfit_<task>.yaml`` from these weights without augmentation, lets
``predict`` write its files, and scores them against the original annotations by pycocotools or the plain script in
``tools/overfit_scores.py``. The ceiling is the truth itself through the head's own resolution, scored alike: with the best logits that its
cells can hold, and in brackets averaged over the cells, which a head can surpass. Prints score, ceiling and ratio, and writes them as json.

Each stage that is finished is skipped, and an unfinished training goes on, when it is started again. ``--fresh`` leaves out MAE. Options
after ``--`` go to the fine-tuning, as ``-- --trainer.max_steps 400``.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.overfit_scores import (
    STEPS,
    Canvas,
    detections,
    drawn_again,
    mean_iou,
    panoptic_again,
    panoptic_answers,
    panoptic_quality,
    precision,
    semantic_again,
    semantic_answers,
)
from tools.overfit_sets import write_set
from tools.stages import run_stage

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "finetune"
_ENCODER = {"width": 128, "depth": 6, "heads": 4, "patch": 16}
_LEAST = 0.9  # of the ceiling


@dataclass(frozen=True)
class Case:
    """A head on a collection: ``config`` learns pictures told of in ``annotations``, with these ``options``, on a ``canvas``.

    ``measure`` is the score that decides, ``unknown`` the class that stands for it in semantic masks.
    """

    data: str
    annotations: str
    config: str
    canvas: Canvas
    measure: str
    unknown: int = 0
    options: tuple[str, ...] = ()


CASES = {
    "nuclei": Case("dsb2018-nuclei", "instances.json", "overfit_masks", Canvas(256, 256, 4), "AP"),
    "nuclei_rcnn": Case("dsb2018-nuclei", "instances.json", "overfit_mask_rcnn", Canvas(256, 256, 1), "AP"),
    "things": Case("coco128-panoptic", "panoptic.json", "overfit_panoptic", Canvas(128, 128, 4), "PQ"),
    "street": Case("camvid", "masks", "overfit_segment", Canvas(192, 256, 16), "mIoU", 11, ("--model.heads.segment.ignore", "[11]")),
    "cells": Case("bccd", "instances.json", "overfit_queries", Canvas(192, 256, 0), "AP"),
    "cells_dense": Case("bccd", "instances.json", "overfit_detect", Canvas(192, 256, 0), "AP"),
}


class Bench:
    """The stages of one case below ``out``, each done once."""

    def __init__(self, case: Case, data: Path, out: Path) -> None:
        self.case, self.source, self.out, self.set = case, data / case.data, out, out / "set"

    def take(self) -> None:
        """The small set."""
        write_set(self.source / "train", self.case.annotations, self.set)

    def pretrain(self, steps: int) -> Path:
        """The run of MAE on all training pictures of the collection."""
        sizes = [word for name, value in _ENCODER.items() for word in (f"--model.encoder.{name}", str(value))]
        words = ["--data.path", str(self.source), "--data.batch_size", "16", *self._size(), *sizes, "--trainer.max_steps", str(steps)]
        return self._trained("mae", words)

    def fit(self, start: Path | None, more: list[str]) -> Path:
        """The run that learned the small set by heart."""
        weights = [] if start is None else ["--model.weights", str(start)]
        sizes = [] if start else [word for name, value in _ENCODER.items() for word in (f"--model.encoder.{name}", str(value))]
        data = ["--data.path", str(self.set), "--data.val_path", str(self.set), *self._size()]
        if self.case.annotations.endswith(".json"):
            data += ["--data.annotations", self.case.annotations]
        config = ["--config", str(CONFIGS / f"{self.case.config}.yaml")]
        return self._trained("fit", [*config, *data, *weights, *sizes, *self.case.options, *more])

    def predict(self, run: Path) -> Path:
        """The folder of what ``predict`` says of the small set's pictures."""
        told = self.out / "predicted"
        words = ["predict", "--ckpt_path", str(run), "--data.path", str(self.set / "images"), "--out", str(told)]
        run_stage(self.out, "predict", words)
        return told

    def judge(self, told: Path) -> dict[str, float]:
        """What was predicted scores."""
        case, truth = self.case, self.set / self.case.annotations
        if case.measure == "PQ":
            return panoptic_quality(truth, panoptic_answers(told))
        if case.measure == "mIoU":
            return mean_iou(truth, semantic_answers(told, truth), case.unknown)
        kind = "segm" if case.canvas.cell else "bbox"
        return precision(truth, detections(truth, told), kind)

    def ceiling(self, steps: int = STEPS) -> dict[str, float]:
        """What the truth scores through the head's cells at its best, or with 0 ``steps`` averaged over them."""
        case, truth = self.case, self.set / self.case.annotations
        if case.measure == "PQ":
            return panoptic_quality(truth, panoptic_again(truth, case.canvas, steps))
        if case.measure == "mIoU":
            return mean_iou(truth, semantic_again(truth, case.canvas, case.unknown, steps), case.unknown)
        kind = "segm" if case.canvas.cell else "bbox"
        return precision(truth, drawn_again(truth, case.canvas, kind, steps), kind)

    def _size(self) -> list[str]:
        canvas = self.case.canvas
        side = str(canvas.height) if canvas.height == canvas.width else f"[{canvas.height}, {canvas.width}]"
        return ["--data.image_size", side]

    def _trained(self, name: str, words: list[str]) -> Path:
        """The run ``name``, trained to its end; a killed one goes on."""
        run, quiet = self.out / name / "version_0", ["--probes.pictures", "0", "--data.num_workers", "0", "--ckpt_path", "auto"]
        run_stage(self.out, name, ["fit", *words, *quiet, "--trainer.default_root_dir", str(self.out), "--name", name])
        return run


def _told(bench: Bench, score: dict[str, float]) -> dict[str, Any]:
    stages = {name: bench.out / f"{name}.json" for name in ("mae", "fit", "predict")}
    seconds = {name: json.loads(file.read_text())["processor_seconds"] for name, file in stages.items() if file.exists()}
    best, averaged, measure = bench.ceiling(), bench.ceiling(0), bench.case.measure
    ratios = {"ratio": score[measure] / best[measure], "ratio_averaged": score[measure] / averaged[measure]}
    return {"score": score, "ceiling": best, "averaged": averaged, **ratios, "processor_seconds": seconds}


def main(arguments: list[str]) -> int:
    """0 where the score is at least 0.9 of the ceiling, or the collection is absent, which is said."""
    ours, more = (arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]) if "--" in arguments else (arguments, [])
    parser = argparse.ArgumentParser(prog="python -m tools.overfit", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("case", choices=list(CASES))
    parser.add_argument("--data", type=Path, default=DATA, help="the folder that holds the collections")
    parser.add_argument("--out", type=Path, default=Path("runs/overfit"))
    parser.add_argument("--mae-steps", type=int, default=300)
    parser.add_argument("--fresh", action="store_true", help="from scratch, without MAE")
    options = parser.parse_args(ours)
    bench = Bench(CASES[options.case], options.data, options.out / options.case)
    if not bench.source.is_dir():
        print(f"skipped: no {bench.source}; give the folder that holds it with --data")
        return 0
    bench.take()
    try:
        run = bench.fit(None if options.fresh else bench.pretrain(options.mae_steps), more)
        told = _told(bench, bench.judge(bench.predict(run)))
    except ValueError as problem:
        print(problem, file=sys.stderr)
        return 2
    (bench.out / "result.json").write_text(json.dumps(told))
    for name, value in told["score"].items():
        print(f"{options.case:<12} {name:<5} score {value:.4f}   ceiling {told['ceiling'][name]:.4f} ({told['averaged'][name]:.4f})")
    ratios = f"{told['ratio']:.3f} ({told['ratio_averaged']:.3f})"
    print(f"{options.case:<12} ratio of {bench.case.measure} {ratios}, processor seconds {told['processor_seconds']}")
    return int(told["ratio"] < _LEAST)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
