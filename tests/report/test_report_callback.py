"""The look at some pictures before a run, and the page after it: neither ends a run."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mae_vlm.callbacks import report as module
from mae_vlm.callbacks.report import Report
from mae_vlm.callbacks.sampled import patch_noise, sampled
from mae_vlm.data.reader import Reader
from mae_vlm.data.sources.base import Source
from mae_vlm.data.transforms import Resize
from mae_vlm.types import Sample


class Given(Source):
    """Pictures from a list; None is one that cannot be read."""

    def __init__(self, pictures):
        self.pictures = pictures

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        if self.pictures[index] is None:
            raise ValueError("no picture")
        return Sample(self.name(index), self.pictures[index])

    def name(self, index):
        return str(index)


def reader_of(pictures):
    return Reader(Given(pictures), Resize((32, 32)), seed=0, channels=3)


def noise(count, deviation=20.0, seed=0):
    draw = np.random.default_rng(seed)
    return [torch.from_numpy(draw.normal(128, deviation, (3, 32, 32)).clip(0, 255).astype(np.uint8)) for _ in range(count)]


def slopes(count):
    """Smooth pictures, each another one."""
    across = torch.linspace(0, 1, 32)
    return [((across[None] * (1 + number) + across[:, None]) * 40 % 256).to(torch.uint8).expand(3, 32, 32) for number in range(count)]


def test_distinct_pictures_are_told_from_copies():
    facts = sampled(reader_of(noise(12)), (32, 32), 8)
    assert (facts["total"], facts["read"], facts["distinct"], facts["pairs"]) == (12, 12, 12, 0)
    facts = sampled(reader_of([*noise(4), *noise(4), *noise(4)]), (32, 32), 8)
    assert (facts["read"], facts["distinct"], facts["pairs"]) == (12, 4, 12)


def test_white_noise_has_a_noise_of_one_and_a_slope_next_to_none():
    assert sampled(reader_of(noise(16)), (32, 32), 8)["patch_noise"] == pytest.approx(1.0, abs=0.05)
    assert sampled(reader_of(slopes(3)), (32, 32), 8)["patch_noise"] < 0.1


def test_a_patch_deviates_as_its_pixels_do_and_not_as_its_channels_differ():
    colour_CHW = torch.tensor([0.2, 0.5, 0.9])[:, None, None].expand(3, 16, 16)
    deviation_N, noise_N = patch_noise(colour_CHW, 8)
    assert deviation_N.tolist() == [0, 0, 0, 0] and noise_N.tolist() == [0, 0, 0, 0]
    stripes_CHW = (torch.arange(16) % 2).float().expand(3, 16, 16)
    deviation_N, noise_N = patch_noise(stripes_CHW, 8)
    torch.testing.assert_close(deviation_N, torch.full((4,), (0.25 * 64 / 63) ** 0.5))
    torch.testing.assert_close(noise_N, torch.full((4,), 0.25 / (0.25 * 64 / 63)))  # all difference across, none down


def test_pictures_of_one_colour_are_counted():
    plain = [torch.full((3, 32, 32), 10 * level, dtype=torch.uint8) for level in range(3)]
    facts = sampled(reader_of([*plain, *slopes(1)]), (32, 32), 8)
    assert facts["constant"] == 0.75 and facts["flat_patches"] >= 0.75


def test_a_picture_that_cannot_be_read_is_passed_over():
    facts = sampled(reader_of([None, *noise(3)]), (32, 32), 8)
    assert facts["total"] == 4 and facts["read"] == 3


def test_a_slow_disk_delays_nothing():
    facts = sampled(reader_of(noise(50)), (32, 32), 8, seconds=0.0)
    assert facts["read"] == 1 and facts["looked_at"] == 1


def test_the_same_pictures_are_looked_at_every_time():
    pictures = noise(80)
    assert sampled(reader_of(pictures), (32, 32), 8, 1e9) == sampled(reader_of(pictures), (32, 32), 8, 1e9)


def trainer_of(reader, first=True):
    state = SimpleNamespace(fn="fit")
    loader, data = SimpleNamespace(dataset=reader), SimpleNamespace(size=(32, 32))
    return SimpleNamespace(is_global_zero=first, state=state, train_dataloader=loader, datamodule=data, loggers=[])


def test_the_look_is_kept_in_the_run_and_not_made_twice(tmp_path):
    Report(tmp_path).on_train_start(trainer_of(reader_of(noise(5))), None)
    kept = (tmp_path / "sampled.json").read_text()
    assert json.loads(kept)["read"] == 5
    Report(tmp_path).on_train_start(trainer_of(reader_of(noise(9))), None)
    assert (tmp_path / "sampled.json").read_text() == kept


def test_other_processes_write_nothing(tmp_path):
    callback, trainer = Report(tmp_path), trainer_of(reader_of(noise(5)), first=False)
    callback.on_train_start(trainer, None)
    callback.on_fit_end(trainer, None)
    assert list(tmp_path.iterdir()) == [] and callback.lines == []


def test_the_page_is_written_at_the_end_and_named(tmp_path, recorded):
    for name in ("config.yaml", "metrics.csv"):
        (tmp_path / name).write_text((recorded("zero") / name).read_text())
    callback = Report(tmp_path)
    callback.on_fit_end(trainer_of(None), None)
    assert callback.lines == ["verdict:      zero-learning-rate", f"report:       {tmp_path / 'report.html'}"]
    assert "zero-learning-rate" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), KeyError("x"), ZeroDivisionError("y")])
def test_a_page_that_cannot_be_made_ends_no_run(tmp_path, capsys, monkeypatch, problem):
    def fail(folder):
        raise problem

    monkeypatch.setattr(module, "report", fail)
    callback = Report(tmp_path)
    callback.on_fit_end(trainer_of(None), None)
    assert callback.lines == [] and list(tmp_path.iterdir()) == []
    told = capsys.readouterr().err
    assert told.startswith("mae_vlm: warning: the report was not written: ") and told.count("\n") == 1


def test_a_run_that_failed_has_a_page_once_it_has_curves(tmp_path, recorded, capsys):
    Report(tmp_path).on_exception(trainer_of(None), None, RuntimeError())
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "metrics.csv").write_text((recorded("poison") / "metrics.csv").read_text())
    Report(tmp_path).on_exception(trainer_of(None), None, RuntimeError())
    assert (tmp_path / "report.html").is_file() and "verdict:      non-finite-steps" in capsys.readouterr().out
