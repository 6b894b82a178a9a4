"""Ctrl-C in the middle of an ablation: its run saves itself, and the same command goes on and finishes the rest."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
from tiny_runs import REPOSITORY, TINY, curve, in_new_process

pytestmark = pytest.mark.faults

STEPS = 24
WORDS = ["ablate", "--vary", "model.masking.init_args.ratio=0.5,0.75", "--seeds", "2", "--steps", str(STEPS), "--out", "out"]
WORDS += [*TINY, "--data.val_scenes", "100", "--checkpoint.every_n_steps", "2", "--trainer.val_check_interval", "12"]


def test_cut_off_and_started_again(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    runs = tmp_path / "out" / "runs"
    first = subprocess.Popen(
        [sys.executable, "-m", "mae_vlm", *WORDS], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        while first.poll() is None and not any(runs.glob("ratio=0.5/seed_0/version_0/checkpoints/step_*.ckpt")):
            time.sleep(0.05)
        first.send_signal(signal.SIGINT)
        said, complained = first.communicate(timeout=120)
    finally:
        first.kill()
    assert first.returncode == 130, said + complained
    assert "ratio=0.5 seed 0: stopped" in said and "0 of 4 runs in out have finished; go on with the same command" in said
    record = runs / "ratio=0.5" / "seed_0.json"
    assert [attempt["code"] for attempt in json.loads(record.read_text())["attempts"]] == [130]

    again = in_new_process(*WORDS, cwd=tmp_path, timeout=900)
    assert again.returncode == 0, again.stdout + again.stderr
    assert [attempt["code"] for attempt in json.loads(record.read_text())["attempts"]] == [130, 0]
    assert "resumed" in record.with_suffix(".log").read_text()
    assert max(curve(runs / "ratio=0.5" / "seed_0" / "version_0", "val/loss")) == STEPS - 1
    assert "val/loss is left out" in again.stdout and "another mask hides other patches" in again.stdout
    assert "probe/linear" in again.stdout.splitlines()[6] and "winner" in again.stdout
    assert (tmp_path / "out" / "ablation.svg").is_file()

    once_more = in_new_process(*WORDS, cwd=tmp_path, timeout=900)
    assert once_more.returncode == 0 and "runs to go" not in once_more.stdout
    assert once_more.stdout[once_more.stdout.index("choice") :] == again.stdout[again.stdout.index("choice") :]
