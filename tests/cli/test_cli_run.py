"""A first run: its folder, its curves, its calm, and that its config repeats it."""

from __future__ import annotations

import pytest
import yaml
from tiny_runs import TINY, content, curve, differing_weights, in_process, rows

TAGS = {
    "train/loss",
    "val/loss",
    "train/pixels/masked_mse",
    "val/pixels/masked_mse",
    "val/pixels/predict_zero",
    "val/pixels/other_picture",
    "optimizer/lr",
    "optimizer/grad_norm",
    "throughput/images_per_second",
    "throughput/data_wait_fraction",
}


@pytest.fixture(scope="module")
def events(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(trained.folder), size_guidance={"scalars": 0, "images": 0}).Reload()


def validations(run):
    return [(int(row["step"]), float(row["val/loss"])) for row in rows(run) if row["val/loss"]]


def test_a_run_is_one_folder(trained):
    there = {str(path.relative_to(trained.folder)) for path in trained.folder.rglob("*") if path.is_file()}
    assert {"config.yaml", "metrics.csv", "checkpoints/last.ckpt", "checkpoints/step_00000006.ckpt"} <= there
    assert len([name for name in there if name.startswith("events.out.tfevents")]) == 1
    assert "pictures/reconstruction_00000000.png" in there and "pictures/reconstruction_00000024.png" in there
    assert not [name for name in there if name.endswith(".partial")]
    assert [path.name for path in trained.root.iterdir()] == ["default"]
    assert [path.name for path in (trained.root / "default").iterdir()] == ["version_0"]


def test_metrics_csv_has_every_tag(trained):
    columns = set(rows(trained.folder)[0])
    assert columns >= TAGS
    assert all(curve(trained.folder, tag) for tag in TAGS)


def test_tensorboard_has_every_tag_and_the_picture(events):
    assert set(events.Tags()["scalars"]) >= TAGS
    assert set(events.Tags()["images"]) == {f"pictures/{name}" for name in ("reconstruction", "attention", "features", "neighbours")}
    shown = events.Images("pictures/reconstruction")
    assert {shown[0].step, shown[-1].step} == {0, 24}
    assert shown[0].width >= 4 * 32 and shown[0].height >= 2 * 32


def test_both_logs_tell_the_same(trained, events):
    told = {event.step: event.value for event in events.Scalars("val/loss")}
    assert told == pytest.approx(curve(trained.folder, "val/loss"), rel=1e-6)


def test_train_loss_has_a_point_every_ten_steps(trained):
    steps = sorted(curve(trained.folder, "train/loss"))
    assert len(steps) == 2 and steps[1] - steps[0] == 10


def test_validation_stands_at_the_start_and_at_the_end(trained):
    losses = validations(trained.folder)
    assert len(losses) == 1 + 24 // 2, "once before the first step, then ten times a run, rounded up"
    assert losses[0][0] == 0 and losses[-1][0] == 24 - 1, "Lightning counts the steps of a curve from 0"
    assert losses[-1][1] < losses[0][1]


def test_config_of_the_run_shows_what_was_chosen(trained):
    config = yaml.safe_load((trained.folder / "config.yaml").read_text())
    assert config["model"]["init_args"]["encoder"]["init_args"]["image_size"] == 32
    assert config["model"]["init_args"]["optimizer"]["init_args"]["base_lr"] == 1.5e-3
    assert config["trainer"]["log_every_n_steps"] == 10
    assert config["data"]["format"] == "scenes" and config["data"]["channels"] == 3
    assert config["name"] == "default"
    log = trained.process.stdout
    assert "model.init_args.optimizer.init_args.base_lr" in log and "for 24 optimizer steps" in log


def test_console_of_a_first_run_is_calm(trained):
    told = trained.process.stdout + trained.process.stderr
    for noise in (
        "Tip",
        "litlogger",
        "does not have many workers",
        "eprecat",
        "GPU available",
        "TPU",
        "Warning",
        "warn(",
        "💡",
        "Seed set",
    ):
        assert noise not in told, told
    assert len(trained.process.stderr.splitlines()) <= 2, trained.process.stderr


def test_console_tells_start_end_folder_picture_and_how_to_look(trained):
    told = trained.process.stdout
    assert "val/loss" in told and "val/pixels/predict_zero" in told and "val/pixels/other_picture" in told
    assert "runs/default/version_0/pictures/reconstruction_00000024.png" in told
    assert "tensorboard --logdir" in told


def test_config_of_a_run_repeats_it_bit_by_bit(trained, tmp_path):
    assert in_process("fit", "--config", trained.folder / "config.yaml", "--trainer.default_root_dir", tmp_path, "--name", "again") == 0
    again = tmp_path / "again" / "version_0"
    assert differing_weights(trained.folder, again) == []
    assert curve(again, "val/loss") == curve(trained.folder, "val/loss")
    assert curve(again, "train/loss") == curve(trained.folder, "train/loss")


def test_checkpoint_holds_its_config(trained):
    mark = content(trained.folder)["mae_vlm"]
    assert yaml.safe_load(mark["config"]) == yaml.safe_load((trained.folder / "config.yaml").read_text())


@pytest.mark.parametrize(
    "length, steps, count",
    [
        (["--trainer.max_epochs", "2"], 8, 9),
        (["--trainer.max_steps", "5"], 5, 6),
        (["--trainer.max_time", "00:00:00:01", "--trainer.max_steps", "100000"], None, 2),
    ],
    ids=["epochs", "steps", "time"],
)
def test_however_a_run_ends_it_validates_once_draws_and_saves(length, steps, count, tmp_path):
    assert in_process("fit", *TINY, *length, "--trainer.default_root_dir", tmp_path) == 0
    run = tmp_path / "default" / "version_0"
    end = content(run)["global_step"]
    assert end == steps or (steps is None and 0 < end < 100_000)
    losses = validations(run)
    assert len(losses) == count and losses[-1][0] == end - 1
    drawn = {path.name for path in (run / "pictures").iterdir()}
    assert {f"{name}_{step:08d}.png" for name in ("reconstruction", "attention", "features") for step in (0, end)} <= drawn
