"""A run that was cut off ends as if it had not been: bit by bit, in the same folder."""

from __future__ import annotations

import shutil

import pytest
from tiny_runs import MACHINE, TINY, content, curve, differing_weights, in_process, rows


@pytest.mark.parametrize("step", [6, 12], ids=["in the middle of an epoch", "at the end of an epoch"])
def test_resumed_run_ends_with_the_same_weights(step, trained, tmp_path):
    """From a numbered checkpoint: a run of its own, which takes over sizes, data and length."""
    checkpoint = trained.folder / "checkpoints" / f"step_{step:08d}.ckpt"
    assert content(trained.folder, checkpoint.stem)["global_step"] == step
    assert in_process("fit", "--ckpt_path", checkpoint, *MACHINE, "--trainer.default_root_dir", tmp_path) == 0
    resumed = tmp_path / "default" / "version_0"
    assert differing_weights(trained.folder, resumed) == []
    whole = curve(trained.folder, "train/loss")
    assert curve(resumed, "train/loss") == {at: loss for at, loss in whole.items() if at >= step}


def test_last_goes_on_in_the_same_folder_and_keeps_the_old_rows(trained, tmp_path):
    run = shutil.copytree(trained.folder, tmp_path / "default" / "version_0")
    for name in ("last.ckpt", "step_00000024.ckpt"):  # as if it was cut off at step 18
        (run / "checkpoints" / name).unlink()
    kept = [row for row in rows(run) if int(row["step"]) < 18]
    lines = (run / "metrics.csv").read_text().splitlines(keepends=True)
    (run / "metrics.csv").write_text("".join(lines[: len(kept) + 1]))
    config = (run / "config.yaml").read_text()

    assert in_process("fit", "--ckpt_path", "last", *MACHINE, "--trainer.default_root_dir", tmp_path) == 0
    assert [path.name for path in (tmp_path / "default").iterdir()] == ["version_0"]
    assert differing_weights(trained.folder, run) == []
    assert rows(run)[: len(kept)] == kept
    assert curve(run, "val/loss") == curve(trained.folder, "val/loss")
    assert curve(run, "train/loss") == curve(trained.folder, "train/loss")
    assert (run / "config.yaml").read_text() == config


def test_a_finished_run_can_be_made_longer(trained, tmp_path):
    run = shutil.copytree(trained.folder, tmp_path / "default" / "version_0")
    before = rows(run)
    assert in_process("fit", "--ckpt_path", "last", *MACHINE, "--trainer.default_root_dir", tmp_path, "--trainer.max_steps", "30") == 0
    assert content(run)["global_step"] == 30
    assert rows(run)[: len(before)] == before and len(rows(run)) > len(before)
    assert (run / "pictures" / "reconstruction_00000030.png").is_file()


def test_last_is_the_newest_run_of_that_name(trained, tmp_path, capsys):
    import os

    for version, age in ((0, 100), (1, 0)):
        run = shutil.copytree(trained.folder, tmp_path / "mine" / f"version_{version}")
        for file in (run / "checkpoints").glob("*.ckpt"):
            os.utime(file, (file.stat().st_atime, file.stat().st_mtime - age))
    words = ["--ckpt_path", "last", "--name", "mine", "--trainer.default_root_dir", tmp_path]
    assert in_process("validate", *words, *MACHINE) == 0
    assert in_process("fit", *words, *MACHINE, "--trainer.max_steps", "26") == 0
    assert content(tmp_path / "mine" / "version_1")["global_step"] == 26
    assert content(tmp_path / "mine" / "version_0")["global_step"] == 24


def test_last_refuses_where_there_is_nothing_and_auto_begins(complaint, tmp_path, capsys):
    where = ["--trainer.default_root_dir", tmp_path]
    assert "no checkpoint under" in complaint("fit", *TINY, *where, "--ckpt_path", "last")
    assert in_process("fit", *TINY, *where, "--ckpt_path", "auto", "--trainer.max_steps", "2") == 0
    assert "starting afresh" in capsys.readouterr().out
