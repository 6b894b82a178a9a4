"""What cannot be read is named once, counted, and ends a run only when it is too much."""

from __future__ import annotations

import io
import json

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from PIL import Image

from mae_vlm.callbacks.checkpoint import Checkpoint
from mae_vlm.callbacks.quarantine import Quarantine
from mae_vlm.data.module import Data

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}


class Sizes(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight, self.sizes = torch.nn.Parameter(torch.zeros(())), []

    def training_step(self, batch, _):
        self.sizes.append(len(batch))
        return self.weight * batch.images_BCHW.float().mean()

    def validation_step(self, batch, _):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Logged(Callback):
    """The count after each batch."""

    def __init__(self):
        self.counts = []

    def on_train_batch_end(self, trainer, *_):
        self.counts.append(float(trainer.callback_metrics.get("data/quarantined", 0)))


@pytest.fixture
def photos(tmp_path):
    for part, count in (("train", 60), ("val", 40)):
        (tmp_path / "photos" / part).mkdir(parents=True)
        for number in range(count):
            buffer = io.BytesIO()
            Image.new("RGB", (20, 24), (number, 0, 0)).save(buffer, "PNG")
            (tmp_path / "photos" / part / f"{number}.png").write_bytes(buffer.getvalue())
    return tmp_path / "photos"


def spoil(photos, part, numbers):
    for number in numbers:
        (photos / part / f"{number}.png").write_bytes(b"spoilt")


def fit(photos, run, steps=5, resume=None, accumulation=1, quarantine=None, prepare=lambda data: None, **options):
    run.mkdir(exist_ok=True)
    quarantine, checkpoint, logged = quarantine or Quarantine(), Checkpoint(), Logged()
    quarantine.folder = checkpoint.folder = run
    data = Data(str(photos), batch_size=12, image_size=16, num_workers=0, **options)
    prepare(data)
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        accumulate_grad_batches=accumulation,
        use_distributed_sampler=False,
        log_every_n_steps=1,
        callbacks=[quarantine, logged, checkpoint],
        **QUIET,
    )
    trainer.fit(model := Sizes(), data, ckpt_path=resume, weights_only=True)
    return logged.counts, model


def told(run):
    return [json.loads(line) for line in (run / "quarantine.jsonl").read_text().splitlines()]


def test_each_bad_picture_is_written_once_with_its_reason_and_counted(photos, tmp_path, capsys):
    spoil(photos, "train", [3, 4, 50])
    spoil(photos, "val", [7])
    counts, model = fit(photos, tmp_path / "run", steps=15)
    entries = told(tmp_path / "run")
    assert sorted((entry["part"], entry["id"]) for entry in entries) == [
        ("train", "3.png"),
        ("train", "4.png"),
        ("train", "50.png"),
        ("val", "7.png"),
    ]
    assert all(entry["reason"].startswith("not a picture") and entry["step"] <= 15 for entry in entries)
    assert set(model.sizes) == {12}
    assert counts == sorted(counts) and counts[-1] == 4
    lines = [line for line in capsys.readouterr().out.splitlines() if "read" in line]
    assert len(lines) == 2 and "a picture that cannot be read is replaced by another: " in lines[0]
    assert lines[1] == f"pictures that could not be read, each replaced by another: 4, named in {tmp_path / 'run' / 'quarantine.jsonl'}"


def test_a_run_without_bad_pictures_says_nothing_and_counts_zero(photos, tmp_path, capsys):
    counts, _ = fit(photos, tmp_path / "run")
    assert counts == [0] * 5
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoints"]
    assert "read" not in capsys.readouterr().out


def test_a_resumed_run_goes_on_counting_and_repeats_no_line(photos, tmp_path):
    run = tmp_path / "run"
    spoil(photos, "train", [3, 4])
    fit(photos, run, steps=5)
    before = told(run)
    assert len(before) == 2
    spoil(photos, "train", [50])
    counts, _ = fit(photos, run, steps=10, resume=run / "checkpoints" / "last.ckpt")
    assert told(run)[:2] == before and [entry["id"] for entry in told(run)[2:]] == ["50.png"]
    assert counts[0] >= 2 and counts[-1] == 3


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(("part", "total"), [("train", 60), ("val", 40)])
def test_too_many_end_the_run_with_one_line_and_a_checkpoint(photos, tmp_path, part, total, accumulation):
    spoil(photos, part, range(11))
    words = {"train": "training", "val": "validation"}[part]
    allowed = r"more than the 10 that data\.max_broken 0\.001 allows"
    message = rf"11 of {total} {words} pictures cannot be read, {allowed}: the last \d+\.png: not a picture"
    with pytest.raises(ValueError, match=message) as caught:
        fit(photos, tmp_path / "run", steps=50, accumulation=accumulation)
    assert "\n" not in str(caught.value) and str(tmp_path / "run" / "quarantine.jsonl") in str(caught.value)
    assert len(told(tmp_path / "run")) == 11
    content = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert 0 < content["global_step"] <= 10


@pytest.mark.parametrize(("count", "share"), [(10, 0.0), (15, 0.25)])
def test_as_many_as_may_be_end_no_run(photos, tmp_path, count, share):
    spoil(photos, "train", range(count))
    counts, _ = fit(photos, tmp_path / "run", steps=10, max_broken=share)
    assert len(counts) == 10 and len(told(tmp_path / "run")) == count


def test_training_and_validation_pictures_are_judged_apart(photos, tmp_path):
    spoil(photos, "train", range(8))
    spoil(photos, "val", range(8))
    fit(photos, tmp_path / "run", steps=5)
    assert len(told(tmp_path / "run")) == 16


def test_a_line_that_was_cut_off_is_passed_over(photos, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "quarantine.jsonl").write_text('{"id": "3.png", "part": "train", "reason": "x"}\n{"id": "4.p')
    assert fit(photos, run)[0] == [1] * 5


def test_what_was_found_before_an_error_is_written(photos, tmp_path):
    class Fails(Quarantine):
        def _exchange(self, trainer):
            raise RuntimeError("the network is gone")

    spoil(photos, "train", range(1, 60))
    with pytest.raises(RuntimeError, match="the network is gone"):
        fit(photos, tmp_path / "run", quarantine=Fails(), val_fraction=0)
    assert told(tmp_path / "run")[0]["part"] == "train"


def test_annotations_left_out_are_written_and_counted(photos, tmp_path, capsys):
    problem = ("box of zero size", "boxes.json", 17, "left 5, right 5")
    fit(photos, tmp_path / "run", steps=1, prepare=lambda data: data.problems.add(*problem))
    file = tmp_path / "run" / "annotations.jsonl"
    assert json.loads(file.read_text().splitlines()[0])["id"] == "17"
    assert f"1 bad annotations are left out, or clipped (box of zero size: 1): {file}" in capsys.readouterr().out
