"""A run that is told to stop saves itself and says how to go on."""

from __future__ import annotations

import json
import signal

import pytest
from tiny_runs import TINY, content, differing_weights, in_new_process, in_process

pytestmark = pytest.mark.faults

STEPS = 12
LENGTH = ["--trainer.max_steps", STEPS, "--trainer.val_check_interval", "4"]
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]


def told(mark, step, number, where="train", rank=0):
    given = {"mark": str(mark), "step": step, "number": int(number), "where": where, "rank": rank}
    return ["--trainer.callbacks", json.dumps([{"class_path": "tests.faults.killer.Harm", "init_args": given}])]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    assert in_process("fit", *TINY, *LENGTH, "--trainer.default_root_dir", root) == 0
    return root / "default" / "version_0"


@pytest.mark.parametrize(
    "name, step, where, code",
    [("SIGTERM", 5, "train", 143), ("SIGINT", 5, "train", 130), ("SIGUSR1", 5, "train", 138), ("SIGTERM", 8, "val", 143)],
)
def test_one_process_saves_and_stops(whole, tmp_path, name, step, where, code):
    words = ["fit", *TINY, *LENGTH, "--trainer.default_root_dir", tmp_path]
    number = getattr(signal, name)
    done = in_new_process(*words, *told(tmp_path / "mark", step, number, where), cwd=tmp_path, timeout=90)
    assert done.returncode == code, done.stderr
    assert f"stopped by {name} at step" in done.stdout and "--ckpt_path last" in done.stdout
    assert "Traceback" not in done.stderr
    run = tmp_path / "default" / "version_0"
    assert content(run)["global_step"] in (step, step + 1)
    assert in_process(*words, "--ckpt_path", "last") == 0
    assert differing_weights(whole, run) == []


@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes_agree_whichever_was_told(tmp_path, rank):
    words = ["fit", *TINY, *TWO, "--trainer.max_steps", "100000", "--trainer.default_root_dir", tmp_path]
    done = in_new_process(*words, *told(tmp_path / "mark", 5, signal.SIGTERM, "train", rank), cwd=tmp_path, timeout=120)
    assert done.returncode == 143, done.stderr
    assert done.stdout.count("stopped by SIGTERM") == 1
    run = tmp_path / "default" / "version_0"
    step = content(run)["global_step"]
    assert step >= 5 and sorted(path.name for path in (run / "checkpoints").glob("*.ckpt")) == ["last.ckpt", f"step_{step:08d}.ckpt"]


@pytest.mark.parametrize("name, code", [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_to_the_whole_group_does_not_kill_the_workers_first(tmp_path, name, code):
    """As Ctrl-C in a terminal, or a scheduler that signals every process of a job, does it."""
    words = ["fit", *TINY, "--data.num_workers", "2", "--trainer.max_steps", "100000", "--trainer.default_root_dir", tmp_path]
    given = {"mark": str(tmp_path / "mark"), "step": 5, "number": int(getattr(signal, name)), "group": True}
    harm = ["--trainer.callbacks", json.dumps([{"class_path": "tests.faults.killer.Harm", "init_args": given}])]
    done = in_new_process(*words, *harm, cwd=tmp_path, timeout=90, start_new_session=True)
    assert done.returncode == code, done.stderr
    assert f"stopped by {name}" in done.stdout and "Traceback" not in done.stderr
    assert content(tmp_path / "default" / "version_0")["global_step"] in (5, 6)


def test_slurm_gets_its_job_back(tmp_path, monkeypatch):
    from mae_vlm.callbacks.signals import requeue

    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert not requeue()
    monkeypatch.setenv("SLURM_JOB_ID", "41")
    assert requeue() and (tmp_path / "asked").read_text() == "requeue 41\n"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "40")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert requeue() and (tmp_path / "asked").read_text() == "requeue 40_3\n"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "40; rm -rf x")
    assert not requeue()
