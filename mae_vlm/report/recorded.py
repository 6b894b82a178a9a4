"""What a run left in its folder, read into plain values; whatever is missing or cut off is simply not there."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Curve = list[tuple[int, float]]  # (optimizer step, value), steps rising

_LINES = 20_000  # of a .jsonl file; a run writes few


@dataclass(frozen=True)
class Recorded:
    """One run as its files tell it.

    Attributes:
        curves: by tag, as in ``metrics.csv``; the newest value where a step was written twice, of step 0 the first. NaN and infinity stay.
        config: ``config.yaml`` as a mapping, and ``config_text`` as it was written.
        facts: ``facts.json``; sampled: ``sampled.json``.
        bad_steps, quarantined: lines of the ``.jsonl`` files.
        pictures: the files in ``pictures/``, sorted by name.
    """

    folder: Path
    curves: dict[str, Curve] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    config_text: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    sampled: dict[str, Any] = field(default_factory=dict)
    bad_steps: list[dict[str, Any]] = field(default_factory=list)
    quarantined: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)

    def curve(self, tag: str) -> Curve:
        """The finite points of a curve; empty where nothing was recorded."""
        return [(step, value) for step, value in self.curves.get(tag, []) if math.isfinite(value)]

    def setting(self, key: str, default: Any = None) -> Any:
        """The config's value at a dotted key, ``init_args`` left out as on the command line."""
        place: Any = self.config
        for name in key.split("."):
            if isinstance(place, dict) and name not in place:
                place = place.get("init_args")
            place = place.get(name) if isinstance(place, dict) else None
        return default if place is None else place

    def fact(self, key: str, default: Any = None) -> Any:
        """The value at a dotted key of ``facts.json``."""
        place: Any = self.facts
        for name in key.split("."):
            place = place.get(name) if isinstance(place, dict) else None
        return default if place is None else place

    @property
    def objectives(self) -> list[str]:
        """Names of the objectives, from the config, or from the curves where it tells none."""
        named = self.setting("model.objectives")
        if isinstance(named, dict) and named:
            return list(named)
        return sorted({tag.split("/")[1] for tag in self.curves if tag.count("/") == 2 and tag.startswith(("train/", "val/"))})

    @property
    def steps(self) -> int:
        """Optimizer steps taken, as far as anything tells."""
        ends = [curve[-1][0] + tag.startswith(("train/", "optimizer/")) for tag, curve in self.curves.items() if curve]  # told in the step
        return int(self.fact("step") or max(ends, default=0))

    @property
    def max_steps(self) -> int:
        """Steps that the run was to take; 0 where nothing tells."""
        told = self.fact("max_steps") or self.setting("trainer.max_steps") or 0
        return max(0, int(told))

    @property
    def batch_size(self) -> int:
        """Pictures of an optimizer step; 0 where nothing tells."""
        return int(self.fact("batch_size") or self.setting("data.batch_size") or 0)

    @property
    def grid(self) -> tuple[int, int] | None:
        """(rows, columns) of patches; None where the config does not tell."""
        size, patch = self.setting("model.encoder.image_size") or self.setting("data.image_size"), self.setting("model.encoder.patch")
        if not size or not patch:
            return None
        height, width = (size, size) if isinstance(size, int) else size
        return int(height) // int(patch), int(width) // int(patch)


def read(folder: Path) -> Recorded:
    """Everything a run folder tells.

    Raises:
        ValueError: there is no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give a run's folder, as runs/default/version_0")
    if not any((folder / name).is_file() for name in ("metrics.csv", "config.yaml", "facts.json")):
        inside = sorted(path.parent for path in folder.glob("*/metrics.csv")) or sorted(
            path.parent for path in folder.glob("*/*/metrics.csv")
        )
        hint = f"did you mean {inside[-1]}?" if inside else "a run's folder holds config.yaml and metrics.csv"
        raise ValueError(f"{folder} holds no run; {hint}")
    text = _text(folder / "config.yaml")
    return Recorded(
        folder,
        curves=_curves(folder / "metrics.csv"),
        config=_yaml(text),
        config_text=text,
        facts=_json(folder / "facts.json"),
        sampled=_json(folder / "sampled.json"),
        bad_steps=list(_lines(folder / "bad_steps.jsonl")),
        quarantined=list(_lines(folder / "quarantine.jsonl")),
        pictures=sorted((folder / "pictures").glob("*.png")),
    )


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(_text(file))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _yaml(text: str) -> dict[str, Any]:
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times as fast
    try:
        content = yaml.load(text, Loader=loader)
    except yaml.YAMLError:
        return {}
    return content if isinstance(content, dict) else {}


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    for line in _text(file).splitlines()[:_LINES]:
        try:
            content = json.loads(line)
        except ValueError:  # the line that a kill cut off
            continue
        if isinstance(content, dict):
            yield content


def _curves(file: Path) -> dict[str, Curve]:
    found: dict[str, dict[int, float]] = {}
    for row in csv.DictReader(_text(file).splitlines()):
        try:
            step = int(float(row.get("step") or ""))
        except ValueError:
            continue
        for tag, word in row.items():
            if tag and word and tag != "step" and isinstance(word, str):
                _put(found.setdefault(tag, {}), step, word)
    return {tag: sorted(points.items()) for tag, points in found.items()}


def _put(points: dict[int, float], step: int, word: str) -> None:
    try:
        value = float(word)
    except ValueError:
        return
    if step or step not in points:  # what was measured before the first step, and after it, both stand at step 0: the first is the start
        points[step] = value
