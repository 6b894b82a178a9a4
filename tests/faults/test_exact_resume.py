"""Killed at any moment and started again by the same command, a run ends bit-equal to one that was never interrupted."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from tiny_runs import TINY, content, curve, differing_weights, in_new_process, in_process, rows

pytestmark = pytest.mark.faults

STEPS = 12  # three epochs of four steps; validation after each epoch
LENGTH = ["--trainer.max_steps", STEPS, "--trainer.log_every_n_steps", "1", "--checkpoint.every_n_steps", "2"]
LENGTH += ["--trainer.val_check_interval", "4", "--ema.decay", "0.9"]
TOLD = ("train/", "val/", "ema/", "optimizer/", "guard/")  # tags that time has no part in

EARLY, WITHIN, AT_END, IN_VALIDATION = {"step": 1}, {"step": 7}, {"step": 8}, {"step": 8, "where": "val"}
TWICE = [{"step": 5}, WITHIN]
CASES = [  # kills, workers, accumulation
    pytest.param([EARLY], 0, 1, id="before any checkpoint"),
    pytest.param([WITHIN], 0, 1, id="within an epoch"),
    pytest.param([AT_END], 0, 1, id="at an epoch's end"),
    pytest.param(TWICE, 0, 1, id="twice in one epoch"),
    pytest.param([IN_VALIDATION], 0, 1, id="during validation"),
    pytest.param([{"step": 12, "where": "val"}], 0, 1, id="during the last validation"),
    pytest.param([WITHIN], 0, 2, id="within an epoch, accumulating"),
    pytest.param([AT_END], 0, 2, id="at an epoch's end, accumulating"),
    pytest.param([IN_VALIDATION], 0, 2, id="during validation, accumulating"),
    pytest.param([AT_END], 2, 1, id="at an epoch's end, with workers"),
    pytest.param(TWICE, 2, 1, id="twice in one epoch, with workers"),
    pytest.param(TWICE, 2, 2, id="twice in one epoch, with workers, accumulating"),
]


def harm(mark, step, **more):
    """The option that lets a run kill itself."""
    return ["--trainer.callbacks", json.dumps([harming(mark, step, **more)])]


def harming(mark, step, **more):
    given = {"mark": str(mark), "step": step, "number": int(signal.SIGKILL)} | more
    return {"class_path": "tests.faults.killer.Harm", "init_args": given}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Gives (options, run) of a run that nobody disturbed, for a number of accumulated batches; each is made once."""
    runs = {}

    def make(accumulation):
        options = [*TINY, *LENGTH, "--trainer.accumulate_grad_batches", accumulation]
        if accumulation not in runs:
            root = tmp_path_factory.mktemp("whole")
            assert in_process("fit", *options, "--trainer.default_root_dir", root) == 0
            runs[accumulation] = root / "default" / "version_0"
        return options, runs[accumulation]

    return make


def table(run):
    """``metrics.csv`` row by row, without what is measured in seconds, or done only where there is time (probes, in rows of their own)."""
    told = [{tag: value for tag, value in row.items() if value and tag.startswith((*TOLD, "step"))} for row in rows(run)]
    return [row for row in told if row.keys() != {"step"}]


def ends_as(whole_run, root, number=0):
    assert len(list((root / "default").iterdir())) == number + 1
    run = root / "default" / f"version_{number}"
    assert differing_weights(whole_run, run) == []
    ours, theirs = content(run), content(whole_run)
    for place in ("optimizer_states", "lr_schedulers"):
        assert alike(ours[place], theirs[place]), place
    assert theirs["callbacks"]["Ema"]["steps"] == STEPS and alike(ours["callbacks"]["Ema"], theirs["callbacks"]["Ema"])
    assert table(run) == table(whole_run)
    assert [row["step"] for row in table(run) if "train/loss" in row] == [str(step) for step in range(STEPS)]
    names = {str(path.relative_to(run)) for path in run.rglob("*.partial")}
    assert names == set()


def alike(ours, theirs):
    """Bit-equal, however deep."""
    if isinstance(ours, torch.Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(alike(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(alike(*pair) for pair in zip(ours, theirs, strict=True))
    return ours == theirs


@pytest.mark.parametrize("kills, workers, accumulation", CASES)
def test_killed_and_started_again(whole, tmp_path, kills, workers, accumulation):
    options, undisturbed = whole(accumulation)
    words = ["fit", *options, "--ckpt_path", "auto", "--data.num_workers", workers, "--trainer.default_root_dir", tmp_path]
    for number, kill in enumerate(kills):
        dead = in_new_process(*words, *harm(tmp_path / f"mark{number}", **kill), cwd=tmp_path)
        assert dead.returncode == -signal.SIGKILL, dead.stderr
    back = in_new_process(*words, cwd=tmp_path)
    assert back.returncode == 0, back.stderr
    saved = kills[0]["step"] > 1
    assert ("resumed" in back.stdout) == saved and ("starting afresh" in back.stdout) == (not saved)
    ends_as(undisturbed, tmp_path, number=0 if saved else 1)  # a run that left no checkpoint keeps its folder


@pytest.mark.parametrize("kill", [WITHIN, AT_END, IN_VALIDATION], ids=["within an epoch", "at an epoch's end", "during validation"])
def test_drawn_numbers_go_on_where_they_were(tmp_path, kill):
    """Noise in the gradients comes from torch's generator: its state is in the checkpoint, one for each process."""
    noise = {"class_path": "tests.faults.killer.Jitter"}
    words = ["fit", *TINY, *LENGTH, "--ckpt_path", "auto"]
    alone = ["--trainer.callbacks", json.dumps([noise])]
    assert in_new_process(*words, *alone, "--trainer.default_root_dir", tmp_path / "whole", cwd=tmp_path).returncode == 0
    cut = ["--trainer.default_root_dir", tmp_path / "cut"]
    killed = ["--trainer.callbacks", json.dumps([noise, harming(tmp_path / "mark", **kill)])]
    assert in_new_process(*words, *killed, *cut, cwd=tmp_path).returncode == -signal.SIGKILL
    assert in_new_process(*words, *alone, *cut, cwd=tmp_path).returncode == 0
    ends_as(tmp_path / "whole" / "default" / "version_0", tmp_path / "cut")


@pytest.mark.parametrize("accumulation", [1, 2], ids=["", "accumulating"])
@pytest.mark.parametrize("first, second", [(1, 2), (2, 1)])
def test_another_number_of_processes_goes_on_without_losing_or_repeating_a_sample(whole, tmp_path, first, second, accumulation):
    options, undisturbed = whole(accumulation)
    both = {1: [], 2: ["--trainer.devices", "2", "--trainer.strategy", "ddp"]}
    words = ["fit", *options, "--ckpt_path", "auto", "--trainer.default_root_dir", tmp_path]
    dead = in_new_process(*words, *both[first], *harm(tmp_path / "mark", 7, rank=first - 1), cwd=tmp_path)
    assert dead.returncode != 0
    back = in_new_process(*words, *both[second], "--data.num_workers", "1", cwd=tmp_path)
    assert back.returncode == 0, back.stderr
    run = tmp_path / "default" / "version_0"
    assert content(run)["global_step"] == STEPS
    ours, theirs = curve(run, "train/loss"), curve(undisturbed, "train/loss")
    assert ours.keys() == theirs.keys()
    assert max(abs(ours[step] - theirs[step]) for step in ours) < 1e-4  # the losses go by the samples: none is lost or repeated


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_became_read_only_ends_the_run_in_one_line(tmp_path):
    assert in_process("fit", *TINY, "--trainer.max_steps", "2", "--trainer.default_root_dir", tmp_path) == 0
    folder = tmp_path / "default" / "version_0" / "checkpoints"
    folder.chmod(0o500)
    try:
        words = ["fit", *TINY, "--ckpt_path", "last", "--trainer.max_steps", "4", "--trainer.default_root_dir", tmp_path]
        done = in_new_process(*words, cwd=tmp_path)
        assert done.returncode != 0 and content(folder.parent)["global_step"] == 2
    finally:
        folder.chmod(0o700)
