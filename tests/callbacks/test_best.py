"""Promises of mae_vlm.callbacks.best."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mae_vlm import storage
from mae_vlm.callbacks.best import Best, better
from mae_vlm.callbacks.checkpoint import DurableCheckpointIO


def a_run(folder, values, watched, first=1):
    """The validations of a run, one after the other; gives what best.ckpt holds in the end."""
    best = Best(folder)
    for step, value in enumerate(values, first):
        metrics = {tag: torch.tensor(one) for tag, one in value.items()}

        def save(file, step=step):
            DurableCheckpointIO().save_checkpoint({"global_step": step}, file)

        trainer = SimpleNamespace(
            state=SimpleNamespace(fn="fit"), global_step=step, callback_metrics=metrics, save_checkpoint=save,
            is_global_zero=True, strategy=SimpleNamespace(barrier=lambda: None, reduce_boolean_decision=bool),
        )  # fmt: skip
        best.on_validation_end(trainer, SimpleNamespace(watched=watched))
    return best


def held(folder, name="best.ckpt"):
    return torch.load(folder / "checkpoints" / name, weights_only=True)["global_step"]


@pytest.mark.parametrize("higher, expected", [(True, 3), (False, 2)])
def test_the_best_is_kept_and_the_first_of_equals(tmp_path, higher, expected):
    values = [{"val/top1": value} for value in (0.5, 0.4, 0.7, 0.7, float("nan"), 0.6)]
    best = a_run(tmp_path, values, {"classify": ("val/top1", higher)})
    assert held(tmp_path) == expected == best.steps["classify"]
    assert storage.damage(tmp_path / "checkpoints" / "best.ckpt") is None
    assert storage.entries(tmp_path / "checkpoints")["best.ckpt"][-1].step == expected


def test_each_of_several_heads_has_its_own(tmp_path):
    values = [{"val/a/top1": 0.1, "val/b/l1": 3.0}, {"val/a/top1": 0.2, "val/b/l1": 4.0}]
    a_run(tmp_path, values, {"a": ("val/a/top1", True), "b": ("val/b/l1", False)})
    assert (held(tmp_path, "best_a.ckpt"), held(tmp_path, "best_b.ckpt")) == (2, 1)


def test_a_run_that_goes_on_knows_its_best(tmp_path):
    watched = {"classify": ("val/top1", True)}
    before = a_run(tmp_path, [{"val/top1": 0.7}], watched)
    after = Best(tmp_path)
    after.load_state_dict(before.state_dict())
    assert not better(0.6, after.values["classify"], True) and better(0.8, after.values["classify"], True)


def test_neither_the_validation_before_the_first_step_nor_pretraining_has_a_best(tmp_path):
    a_run(tmp_path, [{"val/top1": 0.7}], {"classify": ("val/top1", True)}, first=0)
    a_run(tmp_path, [{"val/loss": 0.7}], {})
    assert not (tmp_path / "checkpoints").exists()


def test_a_disk_without_room_does_not_end_the_run(tmp_path, capsys):
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    a_run(tmp_path, [{"val/top1": 0.7}], {"classify": ("val/top1", True)})
    assert "best.ckpt of step 1 is not written" in capsys.readouterr().err
