"""All results of the CIFAR comparison as markdown: mean and spread over seeds."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

Row = dict[str, list[float]]


def markdown(folder: Path) -> str:
    """Frozen features first, then fine-tuning; a ± is the sample deviation over seeds."""
    units = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return "\n\n".join([_frozen(units), _tuned(units)])


def _frozen(units: list[dict[str, Any]]) -> str:
    rows: dict[str, Row] = defaultdict(lambda: defaultdict(list))
    for unit in units:
        if unit["kind"] in ("pretrain", "probe"):
            _gather(rows[_name(unit["recipe"])], unit["result"])
    columns = {
        "seconds": "pretrain s",
        "cpu_seconds": "cpu s",
        "val_loss": "val loss",
        "probe": "probe %",
        "knn": "kNN %",
        "best_probe": "best block's probe %",
        "best_knn": "its kNN %",
    }
    digits = {"seconds": 0, "cpu_seconds": 0, "val_loss": 4}
    head = ["weights", "seeds", *columns.values()]
    lines = [[name, _seeds(row), *(_spread(row[key], digits.get(key, 1)) for key in columns)] for name, row in sorted(rows.items())]
    return _ruled(head, lines)


def _tuned(units: list[dict[str, Any]]) -> str:
    pretrained = {_full_name(unit["recipe"]): unit["result"]["seconds"] for unit in units if unit["kind"] == "pretrain"}
    rows: dict[tuple[str, str], Row] = defaultdict(lambda: defaultdict(list))
    for unit in units:
        if unit["kind"] == "finetune":
            setting = unit["result"].pop("finetuning")
            row = rows[_name(unit["recipe"]), _setting(setting)]
            _gather(row, unit["result"])
            row["total"].append(unit["result"]["seconds"] + pretrained.get(_full_name(unit["recipe"]), 0.0))
    lines = [
        [name, setting, _seeds(row), _spread(row["top1"], 1), _spread(row["seconds"], 0), _spread(row["total"], 0)]
        for (name, setting), row in sorted(rows.items())
    ]
    return _ruled(["weights", "fine-tuning", "seeds", "top-1 %", "fine-tune s", "with pretraining s"], lines)


def _gather(row: Row, result: dict[str, Any]) -> None:
    for key, value in result.items():
        if isinstance(value, int | float):
            row[key].append(float(value))


def _full_name(recipe: dict[str, Any]) -> str:
    return json.dumps(recipe, sort_keys=True)


def _name(recipe: dict[str, Any]) -> str:
    """The recipe without its seed, short; what is usual goes unsaid."""
    if recipe["method"] == "random":
        return "random"
    usual: dict[str, Any] = {
        "batch": 256, "mask_ratio": 0.75, "scale_min": 0.2, "normalise": "cifar", "beta2": 0.95, "weight_decay": 0.05, "warmup": 0.1,
        "width": 128, "depth": 6, "heads": 4, "patch": 4,
    }  # fmt: skip
    other = [f"{key} {recipe[key]}" for key, value in usual.items() if recipe.get(key, value) != value]
    return ", ".join([recipe["method"], f"decoder {recipe['decoder']}", f"{recipe['steps']} steps", f"lr {recipe['base_lr']}", *other])


def _setting(setting: dict[str, Any]) -> str:
    return (
        f"lr {setting['lr']}, {setting['epochs'] * setting['multiple']} epochs, "
        f"layer decay {setting['layer_decay']}, crops {setting['crop_min']}-1"
    )


def _seeds(row: Row) -> str:
    return str(max(len(values) for values in row.values()))


def _spread(values: list[float], digits: int) -> str:
    if not values:
        return ""
    around = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{around}"


def _ruled(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *lines])
