"""What a run left behind: how it ended, its last metrics, what it cost, the config it ran with."""

from __future__ import annotations

import csv
import json
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mae_vlm.ablation.plan import Job

LOSS, LINEAR, KNN, BLOCK, SPEED = "val/loss", "probe/linear", "probe/knn", "probe/best_block", "throughput/images_per_second"
ATTEMPT = "--- attempt of "  # begins what one attempt adds to a job's log


@dataclass(frozen=True)
class Outcome:
    """One run, or one that is not there.

    Attributes:
        state: finished, failed, stopped (goes on with the same command) or not run.
        last: the newest value of every tag of metrics.csv.
        seconds: from the start of training to its end over all sessions, as facts.json counts them; else those of the processes.
        speed: the median of images/s.
        config: the resolved one.
        images: training pictures that it planned to see, None where it does not say.
        labelled: whether the data has labels or captions, likewise.
        reason: the line that a run which has not finished ended with.
    """

    job: Job
    state: str
    last: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    speed: float | None = None
    config: dict[str, Any] = field(default_factory=dict)
    images: int | None = None
    labelled: bool | None = None
    reason: str = ""

    @property
    def choice(self) -> str:
        return self.job.choice.label


def read(job: Job) -> Outcome:
    """The outcome of a job as its files tell it."""
    attempts = list(document(job.record).get("attempts", []))
    folder = job.folder()
    if not attempts:
        return Outcome(job, "not run")
    facts = document(folder / "facts.json") if folder else {}
    state = _state(attempts[-1].get("code"), str(facts.get("outcome", "")))
    last, speeds = _metrics(folder / "metrics.csv") if folder else ({}, [])
    return Outcome(
        job,
        state,
        last,
        seconds=facts.get("seconds") or sum(float(attempt.get("seconds") or 0) for attempt in attempts),
        speed=statistics.median(speeds) if speeds else None,
        config=_config(folder),
        images=_images(facts),
        labelled=_labelled(facts),
        reason="" if state == "finished" else _last_line(job.log),
    )


def document(file: Path) -> dict[str, Any]:
    """A JSON object on disk; empty where there is none, or half of one."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def planned_steps(job: Job) -> int | None:
    """The optimizer steps that a run planned for itself when it began; None where it left no checkpoint to go on from."""
    folder = job.folder()
    if folder is None or not any((folder / "checkpoints").glob("*.ckpt")):
        return None
    steps = (_config(folder).get("trainer") or {}).get("max_steps")
    return steps if isinstance(steps, int) and steps > 0 else None


def _state(code: int | None, told: str) -> str:
    if code == 0 or told == "finished":
        return "finished"
    if code is None or code in (130, 138, 143) or code < 0:
        return "stopped"  # by a signal, or the ablation ended before the run: it goes on where it was
    return "failed"


def _metrics(file: Path) -> tuple[dict[str, float], list[float]]:
    last: dict[str, float] = {}
    speeds = []
    try:
        with file.open(newline="") as opened:
            rows = list(csv.DictReader(opened))
    except OSError:
        return {}, []
    for row in rows:
        numbers = {tag: number for tag, text in row.items() if tag and (number := _number(text)) is not None}
        last |= numbers
        speeds += [numbers[SPEED]] if SPEED in numbers else []
    return last, speeds


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _config(folder: Path | None) -> dict[str, Any]:
    try:
        content = yaml.safe_load((folder / "config.yaml").read_text()) if folder else {}
    except (OSError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _labelled(facts: dict[str, Any]) -> bool | None:
    data = facts.get("data")
    return bool(data.get("classes") or data.get("captions")) if isinstance(data, dict) else None


def _images(facts: dict[str, Any]) -> int | None:
    steps, batch = facts.get("max_steps"), facts.get("batch_size")
    return steps * batch if isinstance(steps, int) and isinstance(batch, int) else None


def _last_line(log: Path) -> str:
    try:
        newest = log.read_text(errors="replace").rpartition(ATTEMPT)[2]
    except OSError:
        return ""
    lines = [line.strip() for line in newest.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("mae_vlm: error: ")]  # warnings of loaders may come after it
    return (errors[-1:] or lines[-1:] or [""])[0].removeprefix("mae_vlm: error: ")
