"""What watches a run: its lines, its table, its pictures."""

from __future__ import annotations

import csv
import re
from types import SimpleNamespace

import pytest
import torch

from mae_vlm.callbacks import progress
from mae_vlm.callbacks.metrics_csv import MetricsCsv
from mae_vlm.callbacks.pictures import Pictures, shown_channels
from mae_vlm.callbacks.progress import ProgressLines


class Clock:
    """A clock that tests turn by hand."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


def trainer_at(step, steps=100):
    metrics = {"train/loss": torch.tensor(0.5), "throughput/images_per_second": 320.0, "v_num": "version_0"}
    return SimpleNamespace(global_step=step, estimated_stepping_batches=steps, progress_bar_metrics=metrics)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_progress_lines_tell_step_loss_pace_and_time_left(clock, capsys):
    lines = ProgressLines(seconds=15)
    lines.on_train_start(trainer_at(0), None)
    clock.now += 20
    lines.on_train_batch_end(trainer_at(10), None, None, None, 9)
    assert capsys.readouterr().out == "step 10/100: loss 0.5000, 320 images/s, 3:00 left\n"


def test_progress_lines_come_now_and_then(clock, capsys):
    lines = ProgressLines(seconds=15)
    lines.on_train_start(trainer_at(0), None)
    for step in range(1, 61):
        clock.now += 1
        lines.on_train_batch_end(trainer_at(step), None, None, None, step - 1)
    assert re.findall(r"step (\d+)", capsys.readouterr().out) == ["15", "30", "45", "60"]


def test_time_left_of_a_resumed_run_counts_its_own_steps(clock, capsys):
    lines = ProgressLines(seconds=15)
    lines.on_train_start(trainer_at(50), None)
    clock.now += 25
    lines.on_train_batch_end(trainer_at(75), None, None, None, 24)
    assert "0:25 left" in capsys.readouterr().out


def test_a_run_that_only_time_ends_tells_no_time_left(clock, capsys):
    lines = ProgressLines(seconds=15)
    lines.on_train_start(trainer_at(0, float("inf")), None)
    clock.now += 20
    lines.on_train_batch_end(trainer_at(10, float("inf")), None, None, None, 9)
    assert capsys.readouterr().out == "step 10: loss 0.5000, 320 images/s\n"


def test_other_processes_are_silent(clock, capsys):
    lines = ProgressLines(seconds=15)
    lines.disable()
    lines.on_train_start(trainer_at(0), None)
    clock.now += 20
    lines.on_train_batch_end(trainer_at(10), None, None, None, 9)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("seconds, told", [(0.4, "0:00"), (59, "0:59"), (61, "1:01"), (3600 * 26 + 62, "26:01:02")])
def test_clock(seconds, told):
    assert progress._clock(seconds) == told


def logged(folder, *rows):
    logger = MetricsCsv(save_dir=str(folder), name="run", version="version_0")
    for step, metrics in rows:
        logger.log_metrics(metrics, step=step)
    logger.save()
    with (folder / "run" / "version_0" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_metrics_csv_keeps_the_rows_of_the_run_before(tmp_path):
    first = logged(tmp_path, (0, {"val/loss": 1.0}), (9, {"train/loss": 0.9}))
    both = logged(tmp_path, (19, {"train/loss": 0.8}), (20, {"val/loss": 0.7}))
    assert both[:2] == first
    assert [row["step"] for row in both] == ["0", "9", "19", "20"]
    assert [row["train/loss"] for row in both] == ["", "0.9", "0.8", ""]


def test_metrics_csv_takes_a_new_column_after_a_restart(tmp_path):
    logged(tmp_path, (0, {"val/loss": 1.0}))
    rows = logged(tmp_path, (1, {"val/loss": 0.9, "val/other": 2.0}))
    assert [(row["val/loss"], row["val/other"]) for row in rows] == [("1.0", ""), ("0.9", "2.0")]


@pytest.mark.parametrize("channels, shown", [(1, 1), (2, 1), (3, 3), (4, 3), (13, 3)])
def test_any_number_of_channels_can_be_shown(channels, shown):
    picture = torch.rand(channels, 4, 5, generator=torch.Generator().manual_seed(0))
    seen = shown_channels(picture)
    assert seen.shape == (shown, 4, 5)
    expected = picture[:3] if shown == 3 else picture.mean(dim=0, keepdim=True)
    torch.testing.assert_close(seen, expected)


def test_a_count_of_pictures_below_one_is_refused():
    with pytest.raises(ValueError, match=r"pictures\.count 0"):
        Pictures(0)
