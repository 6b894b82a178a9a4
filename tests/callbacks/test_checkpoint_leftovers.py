"""What fails after a checkpoint is written whole does not unwrite it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mae_vlm import storage
from mae_vlm.callbacks.checkpoint import Checkpoint


@pytest.mark.parametrize("link, removal", [(True, False), (False, True), (True, True)])
def test_a_link_or_removal_that_fails_is_told_in_one_line_and_the_checkpoint_counts(tmp_path, monkeypatch, capfd, link, removal):
    trainer = SimpleNamespace(global_step=0, is_global_zero=True, world_size=1, callbacks=[])
    trainer.save_checkpoint = lambda file: storage.write_whole(file, lambda opened: opened.write(b"whole"), trainer.global_step)
    saver = Checkpoint(keep_last=1)
    saver.folder = tmp_path
    trainer.global_step = 1
    assert saver.save(trainer) is not None and capfd.readouterr().err == ""

    def refused(*places):
        raise OSError(30, "Read-only file system", "there")

    if link:
        monkeypatch.setattr(storage, "point", refused)
    if removal:
        monkeypatch.setattr(storage, "remove", refused)
    trainer.global_step = 2
    file = saver.save(trainer)
    assert file is not None and storage.damage(file) is None and saver.problem == ""
    (line,) = capfd.readouterr().err.splitlines()
    assert "step_00000002.ckpt is written, but " in line and "there: Read-only file system" in line and "no checkpoint" not in line
    assert ("last.ckpt cannot name it" in line) == link and ("older ones cannot be removed" in line) == removal
    assert saver.save(trainer) is None and saver.problem == ""  # it is there: the end of the run does not try again
