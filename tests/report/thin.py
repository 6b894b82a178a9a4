"""``python -m tests.report.thin RUN NAME``: keep what the verdict reads of a real run, thinned out, as ``tests/report/recorded/NAME``."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import yaml

RECORDED = Path(__file__).parent / "recorded"
_ROWS = 12  # training rows
_SECTIONS = {"model": None, "data": ("path", "format", "image_size", "batch_size", "num_workers"), "trainer": ("precision", "max_steps")}


def thin(run: Path, name: str) -> None:
    target = RECORDED / name
    target.mkdir(parents=True, exist_ok=True)
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    trained = [row for row in rows if row.get("optimizer/lr")]
    dropped = {id(row) for place, row in enumerate(trained) if place * _ROWS // len(trained) == (place - 1) * _ROWS // len(trained)}
    kept = [row for row in rows if id(row) not in dropped or row is trained[-1]]
    tags = [tag for tag in rows[0] if tag and tag != "epoch" and any(row.get(tag) for row in kept)]
    with (target / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(tags)
        writer.writerows([[_short(row.get(tag) or "") for tag in tags] for row in kept])
    config = yaml.safe_load((run / "config.yaml").read_text())
    short = {part: {key: value for key, value in config[part].items() if keys is None or key in keys} for part, keys in _SECTIONS.items()}
    if short["data"].get("path"):
        short["data"]["path"] = Path(short["data"]["path"]).name
    (target / "config.yaml").write_text(yaml.safe_dump(short))
    for file in ("facts.json", "sampled.json"):
        content = json.loads((run / file).read_text())
        content.pop("choices", None)
        content.pop("sessions", None)
        if "data" in content:
            content["data"]["path"] = short["data"].get("path")
        (target / file).write_text(json.dumps(content))
    if (run / "bad_steps.jsonl").is_file():
        (target / "bad_steps.jsonl").write_text((run / "bad_steps.jsonl").read_text())


def _short(word: str) -> str:
    return f"{float(word):.5g}" if word else ""


if __name__ == "__main__":
    thin(Path(sys.argv[1]), sys.argv[2])
