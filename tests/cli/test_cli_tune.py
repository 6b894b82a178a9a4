"""A batch size and a learning rate from the command line, and nothing else left behind."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import TINY, in_process

from mae_vlm.cli.rate import draw, raw_losses, suggest

RATES = list(np.logspace(-5, 0, 100))


def curve(best=-2.5, noise=0.01, seed=0):
    """Losses of a range test that falls most steeply at 10 ** best and rises from ten times that rate on."""
    logs = np.log10(RATES)
    fall = 1 - 0.4 / (1 + np.exp(-6 * (logs - best))) + 2 * np.maximum(0, logs - best - 1) ** 2
    return fall + noise * np.random.default_rng(seed).standard_normal(len(RATES))


def as_lightning_tells(losses, beta=0.98):
    running, told = 0.0, []
    for step, loss in enumerate(losses, 1):
        running = beta * running + (1 - beta) * loss
        told.append(running / (1 - beta ** (step + 1)))
    return told


def test_the_losses_behind_lightnings_average_are_found_again():
    losses = curve()
    np.testing.assert_allclose(raw_losses(as_lightning_tells(losses)), losses, atol=1e-9)


def test_the_finder_still_reports_the_average_that_is_undone_here():
    from types import SimpleNamespace

    from lightning.pytorch.tuner.lr_finder import _LRCallback

    finder, losses = _LRCallback(100, early_stop_threshold=None), curve()
    strategy = SimpleNamespace(broadcast=lambda value: value)
    for step, loss in enumerate(losses, 1):
        loop = SimpleNamespace(batch_idx=step)
        trainer = SimpleNamespace(fit_loop=loop, accumulate_grad_batches=1, global_step=step, should_stop=False, strategy=strategy)
        finder.on_train_batch_end(trainer, None, torch.tensor(loss, dtype=torch.float64), None, step)
    np.testing.assert_allclose(raw_losses(finder.losses), losses, atol=1e-9)


@pytest.mark.parametrize("best", [-4.0, -3.0, -2.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_steepest_fall_is_suggested(best, seed):
    test = suggest(RATES, curve(best, seed=seed))
    assert abs(np.log10(test.rates[test.found]) - best) < 0.3


def test_losses_that_end_in_nan_are_judged_up_to_there():
    losses = curve(-3.0)
    losses[80:] = np.nan
    test = suggest(RATES, losses)
    assert len(test.rates) == 80 and abs(np.log10(test.rates[test.found]) + 3) < 0.3


@pytest.mark.parametrize("losses", [np.linspace(1, 2, 100), np.full(100, 0.5), np.full(100, np.nan)])
def test_where_the_loss_never_falls_nothing_is_suggested(losses):
    assert suggest(RATES, losses).found is None


def test_the_picture_shows_the_test(tmp_path):
    draw(suggest(RATES, curve()), tmp_path / "rate.png")
    pixels = np.asarray(Image.open(tmp_path / "rate.png").convert("RGB"))
    assert pixels.shape == (420, 720, 3)
    assert (pixels == (200, 60, 40)).all(-1).sum() > 50 and (pixels == (31, 90, 170)).all(-1).sum() > 500


@pytest.fixture
def weights(monkeypatch):
    """The weights before and after tuning."""
    from mae_vlm.cli.tune import Tune

    seen, tune = [], Tune.tune

    def watched(self):
        for act in (None, tune):
            if act is not None:
                act(self)
            seen.append({name: value.clone() for name, value in self.model.state_dict().items()})

    monkeypatch.setattr(Tune, "tune", watched)
    return seen


def test_both_are_found_and_the_weights_are_as_before(tmp_path, capsys, monkeypatch, weights):
    monkeypatch.chdir(tmp_path)
    words = [*TINY, "--trials", "3", "--steps", "40", "--seconds", "1000", "--trainer.accumulate_grad_batches", "2"]
    assert in_process("tune", *words) == 0
    told = capsys.readouterr().out
    assert [int(size) for size in re.findall(r"(\d+) at a time: +[\d.]+ images/s", told)] == [8, 16, 32]
    size = int(re.search(r"add:  --data\.batch_size (\d+)", told)[1])
    assert size in (16, 32, 64)  # two parts a step
    base, lr, images = re.search(r"base_lr (\S+)   \(lr (\S+) = base_lr x (\d+) images per step", told).groups()
    assert int(images) == size and float(lr) == pytest.approx(float(base) * size / 256, rel=0.05)
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert files == ["runs/default/tune_0/rate.png", "runs/default/tune_0/tune.json"]
    found = json.loads((tmp_path / files[1]).read_text())
    assert found["base_lr"] == float(base) and found["batch_size"] == size and 20 < len(found["test"]["loss"]) <= 40
    before, after = weights
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_size_beyond_the_time_or_the_collection_is_not_tried(tmp_path, capsys, monkeypatch, weights):
    monkeypatch.chdir(tmp_path)
    assert in_process("tune", *TINY, "--batch-size", "--seconds", "0") == 0
    told = capsys.readouterr().out
    assert "no larger size: the next would take longer than --seconds 0" in told and "add:  --data.batch_size 8 " in told
    assert in_process("tune", *TINY, "--batch-size", "--seconds", "1000", "--data.scenes", "20") == 0
    told = capsys.readouterr().out
    assert [int(size) for size in re.findall(r"(\d+) at a time: +[\d.]+ images/s", told)] == [8, 16]
    assert list(tmp_path.rglob("*")) == []
    assert all(torch.equal(weights[0][name], later[name]) for later in weights[1:2] for name in later)


def test_a_size_that_does_not_fit_into_memory_is_told_and_not_taken(tmp_path, capsys, monkeypatch):
    from mae_vlm.learners.pretrain import Pretrainer

    step = Pretrainer.training_step

    def small(self, batch, index):
        if len(batch) > 16:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return step(self, batch, index)

    monkeypatch.setattr(Pretrainer, "training_step", small)
    monkeypatch.chdir(tmp_path)
    assert in_process("tune", *TINY, "--batch-size", "--seconds", "1000") == 0
    told = capsys.readouterr().out
    assert "32 at a time: does not fit into memory" in told
    assert [int(size) for size in re.findall(r"(\d+) at a time: +[\d.]+ images/s", told)] == [8, 16]


def test_a_checkpoint_and_too_few_steps_are_refused(complaint, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "tune tries fresh weights" in complaint("tune", "--ckpt_path", trained.folder, "--lr")
    assert "--steps 3 must be at least 20" in complaint("tune", *TINY, "--steps", "3")
