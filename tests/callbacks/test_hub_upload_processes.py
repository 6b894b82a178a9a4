"""A run of two processes that uploads itself: one of them does, once, and no other waits for it longer than told."""

from __future__ import annotations

import pytest
from hub_server import running
from hub_state import TOKEN, point_at
from tiny_runs import TINY, in_new_process

pytestmark = pytest.mark.slow
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--probes.pictures", "0", "--trainer.max_steps", "3"]
TO = ["--hub.repo", "org/name", "--hub.license", "mit"]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with running() as hub:
        point_at(monkeypatch, hub, tmp_path / "hub_home")
        (tmp_path / "parts").mkdir()
        monkeypatch.setenv("TMPDIR", str(tmp_path / "parts"))
        yield hub


def check_ended(done, tmp_path):
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr and "Traceback" not in done.stderr
    assert list((tmp_path / "runs" / "default" / "version_0" / "checkpoints").glob("*.ckpt")), "the run is whole"
    assert list((tmp_path / "parts").glob("mae_vlm_*")) == [], "no upload is left behind"


def test_of_two_processes_the_first_uploads_once_and_the_run_ends(hub, tmp_path):
    hub.fail("POST .*/commit/", 500)  # tried again, while the other process has ended or waits
    done = in_new_process("fit", *TINY, *TWO, *TO, "--hub.every_n_steps", "3", cwd=tmp_path, timeout=900)
    check_ended(done, tmp_path)
    assert done.stdout.count("uploaded step 3 to ") == 1
    repo = hub.repos["org/name"]
    assert repo.messages == ["initial commit", "Step 3"] and "model.safetensors" in repo.files
    assert sum("/api/repos/create" in line for line in hub.requests) == 1


def test_a_hub_that_cannot_be_reached_keeps_neither_process(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    done = in_new_process("fit", *TINY, *TWO, *TO, "--hub.wait", "1", cwd=tmp_path, timeout=900)
    check_ended(done, tmp_path)
    assert done.stderr.count("the upload to org/name was not done in time; the run is whole, upload it with: ") == 1
    assert hub.repos == {}
