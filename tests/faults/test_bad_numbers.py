"""A loss that is not a number harms nothing: not the weights, not the optimizer, on no process."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_runs import DATA, ENCODER, MACHINE, content, curve, in_new_process, in_process

from mae_vlm.callbacks.guard import Guard

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


LONG = ["--trainer.max_steps", "40", "--trainer.log_every_n_steps", "20", "--checkpoint.every_n_steps", "4"]


def fit_as_on_a_gpu(tmp_path, monkeypatch, *words):
    """Looks at log steps only; the run, which must end well."""
    monkeypatch.setattr(Guard, "_every", lambda self, trainer, module: trainer.log_every_n_steps)
    words = [*RUN[:-2], "--trainer.limit_val_batches", "1", "--probes.pictures", "0", *words]
    assert in_process("fit", *words, "--trainer.default_root_dir", tmp_path) == 0
    return tmp_path / "default" / "version_0"


def bad_steps(run):
    return [json.loads(line)["step"] for line in (run / "bad_steps.jsonl").read_text().splitlines()]


def test_a_stretch_within_one_look_costs_one_rollback(tmp_path, monkeypatch, capsys):
    stretch = [*range(5, 17)]
    run = fit_as_on_a_gpu(tmp_path, monkeypatch, *LONG, "--checkpoint.keep_last", "20", *poisoned(stretch, kind="PoisonOnly"))
    told = capsys.readouterr().out
    assert told.count("(rollback ") == 1 and "steps 5 to 16 had" in told and "step_00000004.ckpt again (rollback 1 of 3)" in told
    assert bad_steps(run) == stretch and content(run)["global_step"] == 40
    moments = content(run)["optimizer_states"][0]["state"][0]
    assert moments["step"] == 4 + 20  # those of the checkpoint and those after the look


def test_the_only_checkpoint_from_before_a_bad_stretch_is_not_pruned(tmp_path, monkeypatch, capsys):
    run = fit_as_on_a_gpu(tmp_path, monkeypatch, *LONG, *poisoned([5, 6, 7], kind="PoisonOnly"))
    assert "step_00000004.ckpt again (rollback 1 of 3)" in capsys.readouterr().out
    assert content(run)["global_step"] == 40
    left = {file.name for file in (run / "checkpoints").glob("step_*")}
    assert left == {"step_00000036.ckpt", "step_00000040.ckpt"}  # once it is needed no more it goes


def test_a_stretch_longer_than_what_is_kept_has_its_checkpoint(tmp_path):
    words = ["--trainer.max_steps", "12", "--checkpoint.every_n_steps", "1", "--checkpoint.keep_last", "1"]
    done, run = fit(tmp_path, *words, *poisoned([5, 6, 7], kind="PoisonOnly"))
    assert done.returncode == 0, done.stderr
    assert "step_00000005.ckpt again (rollback 1 of 3)" in done.stdout
    assert [file.name for file in (run / "checkpoints").glob("step_*")] == ["step_00000012.ckpt"]


def test_an_average_that_the_checkpoint_does_not_know_begins_with_its_weights(tmp_path, monkeypatch):
    fit_as_on_a_gpu(tmp_path, monkeypatch, "--trainer.max_steps", "4")
    words = ["--trainer.max_steps", "9", "--trainer.log_every_n_steps", "1", "--ema.decay", "0.9", "--ckpt_path", "last"]
    run = fit_as_on_a_gpu(tmp_path, monkeypatch, *words, *poisoned([5, 6, 7], kind="PoisonOnly"))
    average = content(run)["callbacks"]["Ema"]
    assert content(run)["callbacks"]["Guard"]["rolled_back"] == 1
    assert average["steps"] == 1  # the one step after the rollback
    assert all(torch.isfinite(value).all() for value in average["weights"].values())
