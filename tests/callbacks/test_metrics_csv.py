"""The table of a run that was cut off is that of one that was not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mae_vlm.callbacks.metrics_csv import MetricsCsv, MetricsPlace

ROWS = [(0, {"val/loss": 1.0}), (9, {"train/loss": 0.9}), (19, {"train/loss": 0.8}), (19, {"val/loss": 0.7}), (29, {"train/loss": 0.6})]


def table(folder, rows=(), logger=None):
    logger = logger or MetricsCsv(save_dir=str(folder), name="run", version="version_0")
    for step, metrics in rows:
        logger.log_metrics(metrics, step=step)
        logger.save()
    return logger


def trainer(logger, processed=0, every=10, step=0, metrics=None):
    progress = SimpleNamespace(current=SimpleNamespace(processed=processed, completed=0))
    loop = SimpleNamespace(batch_progress=progress, _batches_that_stepped=step)
    connector = SimpleNamespace(metrics={"log": metrics or {}})
    named = {"loggers": [logger], "fit_loop": SimpleNamespace(epoch_loop=loop), "_logger_connector": connector}
    return SimpleNamespace(log_every_n_steps=every, current_epoch=0, **named)


def saved(logger, **now):
    checkpoint = {}
    MetricsPlace().on_save_checkpoint(trainer(logger, **now), None, checkpoint)
    return checkpoint


def resumed(folder, checkpoint):
    place, logger = MetricsPlace(), MetricsCsv(save_dir=str(folder), name="run", version="version_0")
    place.on_load_checkpoint(trainer(logger), None, checkpoint)
    place.on_train_start(trainer(logger), None)
    return logger


@pytest.fixture
def file(tmp_path):
    return tmp_path / "run" / "version_0" / "metrics.csv"


def test_rows_after_the_checkpoint_are_dropped_and_those_before_stay_byte_by_byte(tmp_path, file):
    logger = table(tmp_path, ROWS[:3])
    before, checkpoint = file.read_bytes(), saved(logger)
    table(tmp_path, ROWS[3:], logger)
    assert file.read_bytes() != before
    again = resumed(tmp_path, checkpoint)
    assert file.read_bytes() == before
    table(tmp_path, ROWS[3:], again)
    undisturbed = tmp_path / "other"
    table(undisturbed, ROWS)
    assert file.read_bytes() == (undisturbed / "run" / "version_0" / "metrics.csv").read_bytes()


def test_the_row_that_was_about_to_follow_the_checkpoint_is_written_once(tmp_path, file):
    """Lightning logs a step after the checkpoint of that step is written: killed in between, or not, the row is there."""
    logger = table(tmp_path, ROWS[:2])
    checkpoint = saved(logger, processed=1, step=19, metrics={"train/loss": 0.8})
    resumed(tmp_path, checkpoint)
    killed_before = file.read_text()
    assert killed_before.splitlines()[-1] == "0,19,0.8,"
    resumed(tmp_path, checkpoint)
    assert file.read_text() == killed_before


def test_a_step_that_is_not_logged_leaves_nothing_to_follow(tmp_path, file):
    logger = table(tmp_path, ROWS[:2])
    for now in ({"processed": 1, "step": 18}, {"processed": 0, "step": 19}):
        assert saved(logger, metrics={"train/loss": 0.8}, **now)["metrics_csv"]["pending"] == {}


@pytest.mark.parametrize("kept", [b"", b"step,tra", b"step,train/loss,val/loss\r\n", b"step,train/loss,val/loss\r\n0,,1.0\r\n9,0"])
def test_a_table_cut_off_in_the_middle_of_a_line_is_gone_on_with(tmp_path, file, kept):
    table(tmp_path, ROWS)
    file.write_bytes(kept)
    table(tmp_path, [(39, {"train/loss": 0.5})])
    lines = file.read_text().splitlines()
    assert lines[0].startswith("step,train/loss") and lines[-1].startswith("39,0.5")
    assert len(lines) == 2 + (b"1.0" in kept)


def test_a_cut_table_longer_than_the_checkpoint_is_cut_to_it(tmp_path, file):
    logger = table(tmp_path, ROWS[:3])
    before, checkpoint = file.read_bytes(), saved(logger)
    table(tmp_path, ROWS[3:], logger)
    file.write_bytes(file.read_bytes()[:-4])
    resumed(tmp_path, checkpoint)
    assert file.read_bytes() == before


def test_another_runs_checkpoint_drops_nothing(tmp_path, file):
    checkpoint = saved(table(tmp_path / "other", ROWS), processed=1, step=29, metrics={"train/loss": 0.6})
    table(tmp_path, ROWS[:2])
    before = file.read_bytes()
    resumed(tmp_path, checkpoint)
    assert file.read_bytes() == before
    resumed(tmp_path / "empty", checkpoint)
    assert not (tmp_path / "empty" / "run" / "version_0" / "metrics.csv").exists()


def test_a_checkpoint_without_a_place_drops_nothing(tmp_path, file):
    table(tmp_path, ROWS)
    before = file.read_bytes()
    resumed(tmp_path, {})
    assert file.read_bytes() == before


@pytest.mark.parametrize("change", ["a new column", "the rows to drop"])
def test_killed_while_the_table_is_replaced_nothing_is_lost(tmp_path, file, monkeypatch, change):
    logger = table(tmp_path, ROWS[:3])
    checkpoint = saved(logger)
    table(tmp_path, ROWS[3:], logger)
    before = file.read_bytes()

    def killed(self, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            if change == "a new column":
                table(tmp_path, [(30, {"val/new": 1.0})])
            else:
                resumed(tmp_path, checkpoint)
    assert file.read_bytes() == before
