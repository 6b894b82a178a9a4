"""A loss that is not a number harms nothing: not the weights, not the optimizer, on no process."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_runs import DATA, ENCODER, MACHINE, content, curve, in_new_process

pytestmark = pytest.mark.faults

SICK = ["--model.objectives.pixels", "tests.faults.killer.PoisonPixels", "--model.objectives.pixels.width", "32"]
RUN = [
    *MACHINE,
    *DATA,
    *ENCODER,
    *SICK,
    "--model.objectives.pixels.depth",
    "1",
    "--pictures.count",
    "2",
    "--trainer.log_every_n_steps",
    "1",
]
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]


def poisoned(steps, rank=0, kind="Poison"):
    return ["--trainer.callbacks", json.dumps([{"class_path": f"tests.faults.killer.{kind}", "init_args": {"steps": steps, "rank": rank}}])]


def fit(tmp_path, *words):
    done = in_new_process("fit", *RUN, "--trainer.default_root_dir", tmp_path, *words, cwd=tmp_path, timeout=120)
    return done, tmp_path / "default" / "version_0"


@pytest.mark.parametrize("processes", [[], TWO], ids=["one process", "the second of two"])
def test_a_bad_step_moves_nothing_and_is_written_down(tmp_path, processes):
    rank = 1 if processes else 0
    done, run = fit(tmp_path, *processes, *poisoned([3, 5], rank), "--trainer.max_steps", "10")
    assert done.returncode == 0, done.stderr  # the poisoning callback itself sees that nothing moved
    lines = [json.loads(line) for line in (run / "bad_steps.jsonl").read_text().splitlines()]
    told = [line for line in lines if line["process"] == rank]
    assert [line["step"] for line in told] == [3, 5] and {line["kind"] for line in lines} == {"not finite"}
    assert told[0]["terms"]["train/loss"] == "nan" and told[0]["lr"] > 0
    ids = [name for line in lines if line["step"] == 3 for name in line["ids"]]
    assert len(set(ids)) == 16 and all(name.startswith("scene-") for name in ids)
    assert curve(run, "guard/skipped_steps")[9] == 2
    assert all(torch.isfinite(value).all() for value in content(run)["state_dict"].values())


def test_three_in_a_row_go_back_to_the_last_good_checkpoint(tmp_path):
    words = ["--checkpoint.every_n_steps", "2", "--trainer.max_steps", "12", "--guard.in_a_row", "3", "--ema.decay", "0.9"]
    done, run = fit(tmp_path, *words, *poisoned([5, 6, 7], kind="PoisonOnly"))
    assert done.returncode == 0, done.stderr
    assert "steps 5 to 7 had no finite gradient" in done.stdout and "step_00000004.ckpt again (rollback 1 of 3)" in done.stdout
    assert content(run)["global_step"] == 12 and curve(run, "guard/skipped_steps")[11] == 3
    average = content(run)["callbacks"]["Ema"]
    assert average["steps"] == 4 + 1 + 4  # went back too: those of the checkpoint, the step that told of it, and the four after
    assert all(torch.isfinite(value).all() for value in average["weights"].values())


def test_what_no_rollback_helps_ends_with_a_report(tmp_path):
    words = ["--checkpoint.every_n_steps", "2", "--trainer.max_steps", "100", "--guard.in_a_row", "2", "--guard.rollbacks", "1"]
    done, run = fit(tmp_path, *words, *poisoned(list(range(5, 100)), kind="PoisonOnly"))
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("mae_vlm: error")]
    assert "not finite for 2 steps in a row" in line and "1 rollbacks did not help" in line and "bad_steps.jsonl" in line
    assert "Traceback" not in done.stderr
    assert all(torch.isfinite(value).all() for value in content(run)["state_dict"].values())
