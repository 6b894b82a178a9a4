"""A checkpoint is whole or it is not there."""

from __future__ import annotations

import pytest
import torch

from mae_vlm.callbacks.checkpoint import Checkpoint, DurableCheckpointIO


class Unpicklable:
    def __reduce__(self):
        raise OSError("no space left on device")


def test_a_failed_write_leaves_the_old_file_and_no_part(tmp_path):
    file = tmp_path / "checkpoints" / "last.ckpt"
    DurableCheckpointIO().save_checkpoint({"global_step": torch.tensor(1)}, file)
    before = file.read_bytes()
    with pytest.raises(OSError, match="no space left"):
        DurableCheckpointIO().save_checkpoint({"weights": torch.zeros(1000), "step": Unpicklable()}, file)
    assert file.read_bytes() == before
    assert sorted(path.name for path in file.parent.iterdir()) == ["last.ckpt", "manifest.json"]


def test_a_failed_rename_leaves_the_old_file_and_no_part(tmp_path, monkeypatch):
    file = tmp_path / "last.ckpt"
    DurableCheckpointIO().save_checkpoint({"global_step": torch.tensor(1)}, file)

    def fails(self, target):
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", fails)
        with pytest.raises(OSError, match="the disk is gone"):
            DurableCheckpointIO().save_checkpoint({"global_step": torch.tensor(2)}, file)
    assert torch.load(file, weights_only=True) == {"global_step": torch.tensor(1)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "manifest.json"]


def test_a_write_stays_in_the_targets_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/nowhere")  # Lightning's own way stages there, on another and perhaps smaller disk
    file = tmp_path / "new" / "folder" / "last.ckpt"
    DurableCheckpointIO().save_checkpoint({"global_step": torch.tensor(3)}, file)
    assert torch.load(file, weights_only=True) == {"global_step": torch.tensor(3)}


@pytest.mark.parametrize("options", [{"every_n_steps": 0}, {"every_n_steps": -5}, {"every_n_minutes": 0}])
def test_an_interval_that_is_not_positive_is_refused(options):
    with pytest.raises(ValueError, match="must be positive"):
        Checkpoint(**options)
