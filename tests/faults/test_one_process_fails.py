"""An exception on one process ends the whole job, with that process's own reason on the screen."""

from __future__ import annotations

import json

import pytest
from tiny_runs import TINY, in_new_process

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("launcher", [(), ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mae_vlm")])
def test_the_job_ends_with_the_reason(tmp_path, rank, launcher):
    fails = json.dumps([{"class_path": "tests.faults.killer.Fail", "init_args": {"step": 5, "rank": rank}}])
    words = ["fit", *TINY, "--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.max_steps", "100000"]
    done = in_new_process(*words, "--trainer.callbacks", fails, cwd=tmp_path, launcher=launcher, timeout=90)
    assert done.returncode != 0
    assert "RuntimeError: the reason of rank 1" in done.stderr and "in on_train_batch_start" in done.stderr
