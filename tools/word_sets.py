"""What pictures with words are worth on real sets, a blind twin beside each: ``python -m tools.word_sets easy_vqa`` (daquar, flickr8k).

easy_vqa and daquar: questions answered from scratch by our own ``fit``, exactly right in percent, by a network that sees the picture, by
the same one when it is shown the picture of another sample, by its twin that was trained without any, and by always saying the commonest
answer; with paired intervals over questions. flickr8k: ranks in retrieval both ways, of the pictures trained on and of new ones, with the
pixel loss and without, and when each caption goes with the picture of another sample; with intervals over pictures.

What is finished is skipped and an unfinished training goes on when it is started again. Prints lines of JSON and leaves them in ``--out``.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from mae_vlm.data.collection import open_collection
from mae_vlm.data.sources.base import Place, Source
from mae_vlm.tokens.answers import commonest, normal
from tools.stages import run_stage
from tools.word_ranks import ranks_of
from tools.word_recipes import Config, answering, matching

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
STEPS = {"easy_vqa": 1000, "daquar": 500, "flickr8k": 1000}
_DRAWS = 2000
Numbers = NDArray[Any]
Asked = list[tuple[str, str, str]]  # a picture, a question and the answer in its normal form


def trained(out: Path, name: str, config: Config) -> tuple[Path, float]:
    """The run folder of a config and the processor seconds that it took; it goes on where it was cut off."""
    out.mkdir(parents=True, exist_ok=True)
    file, run = out / f"{name}.yaml", out / "runs" / name / "version_0"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    last = run / "checkpoints" / "last.ckpt"
    start = ["--ckpt_path", "last"] if last.exists() else ["--config", str(file)]
    words = ["fit", *start, "--name", name, "--trainer.default_root_dir", str(out / "runs"), "--probes.pictures", "0"]
    if not last.exists():
        shutil.rmtree(run, ignore_errors=True)  # cut off before anything was kept
    return run, run_stage(out, name, words)


def asked_in(source: Source) -> Asked:
    """All answered questions of a part."""
    return [
        (sample.id, one.text, commonest(one.answers)) for sample in map(source.__getitem__, range(len(source))) for one in sample.questions
    ]


def shown_others(source: Source, folder: Path) -> Path:
    """The same questions, each about the picture of the next sample, under the names of the pictures that they were about."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(len(source)):
        image, sample = source[(number + 1) % len(source)].image, source[number]
        assert isinstance(image, bytes)
        name = f"{number:06d}.png"  # the content tells the format
        (folder / name).write_bytes(image)
        rows += [{"image": name, "question": one.text, "answer": commonest(one.answers)} for one in sample.questions]
    (folder / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def said(run: Path, data: Path, out: Path, name: str) -> list[str]:
    """What a run answers to all questions of a collection, in order, in normal forms."""
    place = out / f"{name}_said"
    words = ["predict", "--ckpt_path", str(run), "--data.path", str(data), "--out", str(place), "--data.num_workers", "0"]
    run_stage(out, f"{name}_predict", words)
    with (place / "predictions.csv").open(newline="") as file:
        return [normal(row["answer"]) for row in csv.DictReader(file)]


def answers(name: str, data: Path, out: Path, options: Config) -> dict[str, Any]:
    """All figures of a set of questions."""
    train, val = (open_collection(Place(str(data / part))).parts["all"] for part in ("train", "val"))
    asked, usual = asked_in(val), Counter(answer for _, _, answer in asked_in(train)).most_common(1)[0][0]
    seeing, seconds = trained(out, "seeing", answering(str(data), picture=True, **options))
    blind, more = trained(out, "blind", answering(str(data), picture=False, **options))
    others = out / "others"
    if not (others / "qa.jsonl").exists():
        shown_others(val, others)
    told = {
        "seeing": said(seeing, data / "val", out, "seeing"),
        "another_picture": said(seeing, others, out, "another_picture"),
        "blind": said(blind, data / "val", out, "blind"),
        "commonest": [usual] * len(asked),
    }
    truths = np.array([truth for _, _, truth in asked])
    right = {who: np.array(words) == truths for who, words in told.items()}
    return {"set": name, "questions": len(asked), "processor_seconds": [seconds, more]} | compared(right, ~np.isin(truths, ("yes", "no")))


def compared(right: dict[str, Numbers], opened: Numbers) -> dict[str, Any]:
    """Shares in percent, and how far the first is ahead of each other, over all questions and those that are not of yes and no."""
    found: dict[str, Any] = {}
    for which, chosen in (("all", np.ones_like(opened)), ("not_yes_no", opened)):
        if not chosen.any():
            continue
        found[which] = {who: round(100 * float(hits[chosen].mean()), 2) for who, hits in right.items()}
        first, *rest = right
        found[f"{which}_ahead_of"] = {who: interval(100.0 * right[first][chosen], 100.0 * right[who][chosen]) for who in rest}
    return found


def interval(ours: Numbers, theirs: Numbers) -> list[float]:
    """Mean difference of paired numbers and its 95 % interval, items drawn again."""
    gap, chance = ours - theirs, np.random.default_rng(0)
    drawn = [gap[chance.integers(len(gap), size=len(gap))].mean() for _ in range(_DRAWS)]
    return [round(float(number), 2) for number in (gap.mean(), *np.percentile(drawn, [2.5, 97.5]))]


def median_interval(rank: Numbers) -> list[float]:
    """Median and its 95 % interval: rows (pictures) drawn again, each with all its ranks."""
    chance = np.random.default_rng(0)
    drawn = [np.nanmedian(rank[chance.integers(len(rank), size=len(rank))]) for _ in range(_DRAWS)]
    return [round(float(number), 2) for number in (np.nanmedian(rank), *np.percentile(drawn, [2.5, 97.5]))]


def retrieval(name: str, data: Path, out: Path, steps: int) -> list[dict[str, Any]]:
    """All figures of a set of captions, a line for each run and part."""
    lines = []
    for unit, pixels in (("words", False), ("words_and_pixels", True)):
        run, seconds = trained(out, unit, matching(str(data), steps, pixels))
        for part, shift in (("train", 0), ("val", 0), ("val", 1)):
            found: dict[str, Any] = {"set": name, "run": unit, "part": part, "captions_of_another_picture": bool(shift)}
            for way, rank in ranks_of(run, data / part, shift).items():
                found |= {f"{way}_r1": round(100 * float((rank[~np.isnan(rank)] == 0).mean()), 2)}
                found |= {f"{way}_median_rank": median_interval(rank + 1)}
            lines.append(found | {"processor_seconds": seconds})
    return lines


def main() -> None:
    """Print and keep the figures of one set."""
    parser = argparse.ArgumentParser(prog="python -m tools.word_sets", description=__doc__)
    parser.add_argument("set", choices=STEPS)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, default=Path("runs/word_sets"))
    parser.add_argument("--steps", type=int)
    given = parser.parse_args()
    out, steps = given.out / given.set, given.steps or STEPS[given.set]
    if given.set == "flickr8k":
        lines = retrieval(given.set, given.data / "flickr8k-sub", out, steps)
    elif given.set == "daquar":
        options = {"steps": steps, "image_size": 96, "questions": 5, "crop": (0.6, 1.0)}
        lines = [answers(given.set, given.data / "daquar", out, options)]
    else:
        options = {"steps": steps, "image_size": 64, "questions": 8, "crop": (0.8, 1.0)}
        lines = [answers(given.set, given.data / "easy-vqa", out, options)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (out / "figures.jsonl").write_text(text)
    print(text, end="", flush=True)


if __name__ == "__main__":
    main()
