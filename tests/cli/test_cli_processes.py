"""Two processes, or two accumulated steps, are one process with the same pictures per step."""

from __future__ import annotations

import pytest
from tiny_runs import REPOSITORY, TINY, check_same_losses, curve, in_new_process, in_process

STEPS = 24
LENGTH = ["--trainer.max_steps", STEPS, "--trainer.log_every_n_steps", "1"]
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    root = tmp_path_factory.mktemp("alone")
    assert in_process("fit", *TINY, *LENGTH, "--trainer.default_root_dir", root) == 0
    return root / "default" / "version_0"


def check_same_curves(run, alone):
    check_same_losses(run, alone, STEPS)
    assert curve(run, "val/loss") == pytest.approx(curve(alone, "val/loss"), abs=1e-4)
    assert curve(run, "val/pixels/other_picture") == pytest.approx(curve(alone, "val/pixels/other_picture"), abs=1e-4)
    assert curve(run, "val/loss")[0] == pytest.approx(curve(alone, "val/loss")[0], abs=1e-6), "before training: equal"
    assert curve(run, "optimizer/grad_norm") == pytest.approx(curve(alone, "optimizer/grad_norm"), rel=1e-3)


def only_run(root):
    assert [path.name for path in (root / "default").iterdir()] == ["version_0"]
    return root / "default" / "version_0"


def test_two_processes_have_the_losses_of_one(alone, tmp_path):
    done = in_new_process("fit", *TINY, *LENGTH, *TWO, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check_same_curves(only_run(tmp_path / "runs"), alone)
    assert done.stdout.count("run folder:") == 2, "once at the start, once at the end, and by the first process alone"
    assert done.stdout.count("chosen automatically") == 1
    for noise in ("Warning", "warn(", "Traceback", "distributed_backend"):
        assert noise not in done.stderr


def test_two_accumulated_steps_have_the_losses_of_one(alone, tmp_path):
    assert in_process("fit", *TINY, *LENGTH, "--trainer.accumulate_grad_batches", "2", "--trainer.default_root_dir", tmp_path) == 0
    check_same_curves(only_run(tmp_path), alone)


def test_torchruns_two_processes_agree_on_one_run(alone, tmp_path):
    """Each process chooses by itself unless told: a folder each, or a wait for ever, would be the fault. With accumulation on top."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mae_vlm")
    piece = REPOSITORY / "configs" / "trainer" / "cpu_two_processes.yaml"
    words = ["--config", piece, "--name", "default", *TINY, *LENGTH, "--trainer.accumulate_grad_batches", "2"]
    done = in_new_process("fit", *words, cwd=tmp_path, launcher=launcher)
    assert done.returncode == 0, done.stderr
    check_same_curves(only_run(tmp_path / "runs"), alone)


def test_a_mistake_ends_all_processes_of_torchrun(tmp_path):
    """The first process refuses; the other must not wait for its word."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mae_vlm")
    done = in_new_process("fit", *TINY, *TWO, "--data.path", "/nowhere", cwd=tmp_path, launcher=launcher, timeout=120)
    assert done.returncode != 0
    assert "mae_vlm: error: data.path /nowhere does not exist" in done.stderr
    assert list(tmp_path.iterdir()) == []
