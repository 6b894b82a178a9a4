"""Tiny runs through the real command line, and what they leave behind. Shared by tests/cli, tests/callbacks and test_configs."""

from __future__ import annotations

import csv
import logging
import os
import subprocess
import sys
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parents[1]
MACHINE = ["--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--data.num_workers", "0"]
DATA = ["--data.scenes", "64", "--data.val_scenes", "12", "--data.image_size", "32", "--data.batch_size", "16"]  # 4 steps an epoch
ENCODER = ["--model.encoder.width", "32", "--model.encoder.depth", "2", "--model.encoder.heads", "2", "--model.encoder.patch", "8"]
DECODER = ["--model.objectives.pixels.width", "32", "--model.objectives.pixels.depth", "1"]
TINY = [*MACHINE, *DATA, *ENCODER, *DECODER, "--pictures.count", "2"]


def in_process(*words: str | Path) -> int:
    """The exit code of ``python -m mae_vlm WORDS``, without the seconds that a new process takes to import."""
    from mae_vlm.cli import main

    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):  # made at import, for a stream that pytest has closed since
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.stream = sys.stderr  # setStream would flush the closed one
    return main([str(word) for word in words])


def in_new_process(
    *words: str | Path, cwd: Path, launcher: tuple[str, ...] = (), timeout: float = 300, **more
) -> subprocess.CompletedProcess[str]:
    """``python -m mae_vlm WORDS`` as a user starts it, in another folder than the repository."""
    foreign = ("MAE_VLM", "PL_", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_", "NODE_RANK", "GROUP_RANK", "PYTEST")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    env |= {"MAE_VLM_CACHE": os.environ["MAE_VLM_CACHE"]} if "MAE_VLM_CACHE" in os.environ else {}
    env |= {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, *(launcher or ("-m", "mae_vlm")), *(str(word) for word in words)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout, **more)


def content(run: Path, checkpoint: str = "last") -> dict:
    return torch.load(run / "checkpoints" / f"{checkpoint}.ckpt", map_location="cpu", weights_only=True)


def differing_weights(left: Path, right: Path) -> list[str]:
    """Names of the weights in two runs' ``last`` that are not bit-equal; the optimizers' states are compared too."""
    ours, theirs = content(left), content(right)
    assert ours["global_step"] == theirs["global_step"]
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    different = [name for name, value in ours["state_dict"].items() if not torch.equal(value, theirs["state_dict"][name])]
    moments, others = ours["optimizer_states"][0]["state"], theirs["optimizer_states"][0]["state"]
    different += [f"moment {number}" for number in moments if not torch.equal(moments[number]["exp_avg"], others[number]["exp_avg"])]
    return different


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def curve(run: Path, tag: str) -> dict[int, float]:
    """Values of one tag in ``metrics.csv``, by step; the newest where a step has several."""
    return {int(row["step"]): float(row[tag]) for row in rows(run) if row.get(tag)}


def check_same_losses(run: Path, other: Path, steps: int) -> None:
    """The training losses of ``steps`` steps agree to 1e-4: the same samples, crops and masks, whoever computed them."""
    ours, theirs = curve(run, "train/loss"), curve(other, "train/loss")
    assert ours.keys() == theirs.keys() == set(range(steps))
    assert max(abs(ours[step] - theirs[step]) for step in ours) < 1e-4
