"""A disk that is full, read-only, tiny or damages files takes no run away: what was saved stays, and the run says what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from tiny_runs import TINY, content, curve, differing_weights, in_new_process, in_process

from mae_vlm import storage
from mae_vlm.callbacks.metrics_csv import MetricsCsv
from mae_vlm.convert import native
from tests.faults import disk_faults

pytestmark = pytest.mark.faults

STEPS = 12  # three epochs of four steps
LENGTH = ["--trainer.max_steps", STEPS, "--trainer.log_every_n_steps", "1", "--checkpoint.every_n_steps", "2"]
LENGTH += ["--trainer.val_check_interval", "4"]
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]


@pytest.fixture
def disk(tmp_path):
    """(folder, how it can be taken away): a small file system of its own, or, where none may be mounted, a folder and a limit."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(folder)], capture_output=True)
    if made.returncode:
        yield folder, "limit"
        return
    yield folder, "full"
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody disturbed."""
    root = tmp_path_factory.mktemp("whole")
    assert in_process("fit", *TINY, *LENGTH, "--trainer.default_root_dir", root) == 0
    return root / "default" / "version_0"


def harm(kind, **given):
    return ["--trainer.callbacks", json.dumps([{"class_path": f"tests.faults.disk_faults.{kind}", "init_args": given}])]


def warnings(stderr, word):
    return [line for line in stderr.splitlines() if line.startswith("mae_vlm: warning: ") and word in line]


def holds(run, *steps):
    """The run's checkpoints are those of ``steps``, all whole; ``last`` names the newest; nothing half written is left."""
    folder = run / "checkpoints"
    names = [f"step_{step:08d}.ckpt" for step in steps]
    assert sorted(file.name for file in folder.iterdir()) == sorted(["last.ckpt", "manifest.json", *names])
    assert (folder / "last.ckpt").resolve().name == names[-1] == native.find_checkpoint(run).name
    assert all(storage.damage(folder / name) is None for name in names)
    assert content(run)["global_step"] == steps[-1]


@pytest.mark.parametrize("processes", [[], TWO], ids=["one process", "two processes"])
def test_a_full_disk_costs_no_checkpoint_that_was_there_and_the_run_ends_with_one_line(disk, whole, tmp_path, processes):
    root, how = disk
    words = ["fit", *TINY, *LENGTH, "--trainer.default_root_dir", root]
    done = in_new_process(*words, *processes, *harm("Harm", disk=str(root), how=how, step=5), cwd=tmp_path, timeout=120)
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("mae_vlm: error: ")]
    assert "step_00000012.ckpt" in line and "it needs" in line and "are free" in line and "--ckpt_path last" in line
    tried = [int(line.split("no checkpoint of step ")[1].split(":")[0]) for line in warnings(done.stderr, "no checkpoint")]
    assert tried == [6, 8, 10, 12, 12]  # at every interval, and once more at the end
    assert len(warnings(done.stderr, "TensorBoard's file")) == 1
    assert "Traceback" not in done.stderr
    run = root / "default" / "version_0"
    holds(run, 2, 4)

    (root / disk_faults.BALLAST).unlink(missing_ok=True)  # somebody makes room
    assert in_process(*words, "--ckpt_path", "last") == 0
    holds(run, 10, 12)
    if not processes:
        assert differing_weights(whole, run) == []
    ours, theirs = curve(run, "train/loss"), curve(whole, "train/loss")
    assert ours.keys() == theirs.keys() and max(abs(ours[step] - theirs[step]) for step in ours) < 1e-4


def test_a_disk_that_has_room_again_costs_nothing(disk, whole, tmp_path, capfd):
    root, how = disk
    words = ["fit", *TINY, *LENGTH, "--trainer.default_root_dir", root]
    assert in_process(*words, *harm("Harm", disk=str(root), how=how, step=5, until=9)) == 0
    run = root / "default" / "version_0"
    holds(run, 10, 12)
    assert differing_weights(whole, run) == []
    assert curve(run, "train/loss") == curve(whole, "train/loss")  # rows waited in memory
    assert len(warnings(capfd.readouterr().err, "no checkpoint")) == 2


def test_rows_of_numbers_wait_for_room_and_none_is_torn_or_doubled(disk, capfd):
    root, how = disk
    if how == "limit":
        pytest.skip("no file system can be mounted here")
    logger = MetricsCsv(root, name="default", version="version_0")

    def log(steps, *names):
        for step in steps:
            logger.log_metrics(dict.fromkeys(names, step / 7), step)
            if step % 10 == 9:
                logger.save()

    log(range(10), "train/loss")
    disk_faults.fill(root)
    log(range(10, 300), "train/loss")  # more than what is left of the file's last block
    log(range(300, 400), "train/loss", "val/loss")  # another column: the file is written anew
    table = root / "default" / "version_0" / "metrics.csv"
    assert table.read_bytes().endswith(b"\n")
    assert len(warnings(capfd.readouterr().err, "metrics.csv")) == 1
    (root / disk_faults.BALLAST).unlink()
    logger.save()
    assert list(curve(table.parent, "train/loss").items()) == [(step, step / 7) for step in range(400)]
    assert list(curve(table.parent, "val/loss")) == list(range(300, 400))


def test_a_disk_that_becomes_read_only_ends_the_run_with_one_line(disk, whole, tmp_path):
    root, how = disk
    if how == "limit":
        pytest.skip("no file system can be mounted here")
    words = ["fit", *TINY, *LENGTH, "--trainer.default_root_dir", root]
    done = in_new_process(*words, *harm("Harm", disk=str(root), how="read-only", step=5), cwd=tmp_path, timeout=120)
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("mae_vlm: error: ")]
    assert "step_00000012.ckpt" in line and "Read-only file system" in line
    assert "Traceback" not in done.stderr
    holds(root / "default" / "version_0", 2, 4)
    disk_faults.remount(root, "rw")
    assert in_process(*words, "--ckpt_path", "last") == 0
    assert differing_weights(whole, root / "default" / "version_0") == []


def test_no_run_begins_on_a_full_disk(disk, capfd):
    root, how = disk
    if how == "limit":
        pytest.skip("no file system can be mounted here")
    disk_faults.fill(root)
    assert in_process("fit", *TINY, *LENGTH, "--trainer.default_root_dir", root) == 1
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    assert line.startswith("mae_vlm: error: ") and "No space left on device" in line
    assert not list(root.glob("default/*"))


def test_checkpoints_never_go_through_a_tiny_folder_for_temporary_files(disk, tmp_path, monkeypatch):
    root, how = disk
    if how == "limit":
        pytest.skip("no file system can be mounted here")
    disk_faults.fill(root, left=40_000)  # enough for Python to choose it, too little for a checkpoint
    monkeypatch.setenv("TMPDIR", str(root))
    done = in_new_process("fit", *TINY, "--trainer.max_steps", 2, "--trainer.default_root_dir", tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    holds(tmp_path / "default" / "version_0", 2)
    assert (tmp_path / "default" / "version_0" / "checkpoints" / "last.ckpt").stat().st_size > 40_000


@pytest.mark.parametrize("where, left", [("half", [2, 4]), ("before last", [4, 6])])
def test_killed_inside_the_write_of_a_checkpoint(whole, tmp_path, where, left):
    words = ["fit", *TINY, *LENGTH, "--trainer.default_root_dir", tmp_path]
    dead = in_new_process(*words, *harm("DieWriting", step=6, where=where), cwd=tmp_path)
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    run = tmp_path / "default" / "version_0"
    partial = run / "checkpoints" / "step_00000006.ckpt.partial"
    assert partial.exists() == (where == "half") and content(run)["global_step"] == 4  # last names a whole one at every moment
    assert native.find_checkpoint(run).name == f"step_{left[-1]:08d}.ckpt"
    assert in_process(*words, "--ckpt_path", "last") == 0
    holds(run, 10, 12)
    assert differing_weights(whole, run) == []


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_last_names_the_damaged_checkpoint_and_takes_the_one_before(whole, tmp_path, damage, recwarn, capfd):
    run = Path(shutil.copytree(whole, tmp_path / "default" / "version_0", symlinks=True))
    newest = run / "checkpoints" / f"step_{STEPS:08d}.ckpt"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data if damage == "flipped" else data[:-1000])
    words = ["fit", *TINY, *LENGTH, "--trainer.default_root_dir", tmp_path]
    assert in_process(*words, "--ckpt_path", "last") == 0
    told = "".join(str(one.message) for one in recwarn.list)
    assert f"damaged checkpoint {newest}" in told
    assert f"resumed {newest.with_name('step_00000010.ckpt')} at step 10" in capfd.readouterr().out
    assert storage.damage(newest) is None and differing_weights(whole, run) == []
    assert os.path.realpath(run / "checkpoints" / "last.ckpt") == str(newest)
