"""The averaged weights of a fine-tuning: they are measured beside the raw ones, and leave the run alone."""

from __future__ import annotations

import pytest
import torch
from several_processes import on_processes
from tiny_runs import DATA, ENCODER, MACHINE, REPOSITORY, content, curve, differing_weights, in_process

from mae_vlm.callbacks.ema import Ema
from mae_vlm.convert.averaged import averaged

CONFIG = ["--config", REPOSITORY / "configs" / "finetune" / "quick_detect.yaml"]
HEAD = ["--model.heads.detect.width", "16", "--model.heads.detect.layers", "1", "--probes.pictures", "0", "--pictures.count", "2"]
SMALL = [*CONFIG, *MACHINE, *DATA, *ENCODER, *HEAD, "--trainer.max_steps", "8", "--trainer.log_every_n_steps", "1"]
SMALL += ["--trainer.val_check_interval", "4", "--data.val_scenes", "13"]
AVERAGING = ["--ema.decay", "0.95"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for name, more in (("plain", []), ("averaging", AVERAGING)):
        assert in_process("fit", *SMALL, *more, "--name", name, "--trainer.default_root_dir", root) == 0
    return root / "plain" / "version_0", root / "averaging" / "version_0"


def test_averaging_leaves_the_run_bit_by_bit_as_it_was(runs):
    plain, averaging = runs
    assert differing_weights(plain, averaging) == [], "the threshold too"
    for tag in ("train/loss", "val/loss", "val/detect/boxes", "val/box_map", "val/box_threshold"):
        assert curve(plain, tag) and curve(plain, tag) == curve(averaging, tag)
    assert (plain / "tables" / "boxes.csv").read_text() == (averaging / "tables" / "boxes.csv").read_text()
    for name in ("detections", "precision_recall"):
        assert (plain / "pictures" / f"{name}_00000008.png").read_bytes() == (averaging / "pictures" / f"{name}_00000008.png").read_bytes()
    assert content(plain, "best")["global_step"] == content(averaging, "best")["global_step"]


def test_what_the_averaged_validation_leaves_in_the_model_is_taken_back():
    class Learner(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("threshold", torch.tensor(0.5))
            self.results = {"detect": {"box_map": 1.0}}

        def log(self, *arguments):
            self.logged = arguments

        def on_validation_epoch_end(self):
            self.threshold.fill_(0.9)
            self.results["detect"] = {}
            self.log("val/box_map", 0.1)

    class Trainer:
        class state:
            fn = "fit"

    learner, ema = Learner(), Ema(0.9)
    ema.weights = {"some": torch.zeros(1)}
    ema.on_validation_start(Trainer(), learner)
    ema.on_validation_epoch_end(Trainer(), learner)
    assert float(learner.threshold) == 0.5 and learner.results == {"detect": {"box_map": 1.0}}
    assert learner.logged == ("ema/box_map", 0.1)


def test_every_metric_of_the_averaged_weights_is_that_of_a_run_with_them(runs, tmp_path, capsys):
    _, run = runs
    raw = curve(run, "val/detect/boxes")
    mean = curve(run, "ema/detect/boxes")
    assert raw.keys() == mean.keys() and mean[0] == pytest.approx(raw[0]) and all(mean[step] != raw[step] for step in mean if step)
    whole = content(run)
    whole["state_dict"] = averaged(whole, run)
    torch.save(whole, tmp_path / "averaged.ckpt")
    capsys.readouterr()
    assert in_process("validate", "--ckpt_path", tmp_path / "averaged.ckpt", *MACHINE, "--trainer.default_root_dir", tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    for tag in ("loss", "box_map", "box_mar"):
        (told,) = [line for line in lines if f"val/{tag} " in line][-1:]
        assert float(told.split()[-2]) == pytest.approx(list(curve(run, f"ema/{tag}").values())[-1], abs=1e-6)


def test_two_processes_average_and_measure_as_one(runs, tmp_path):
    """13 pictures are dealt to both, the last place filled up."""
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--name", "averaging", "--trainer.default_root_dir", tmp_path]
    assert on_processes(2, in_process, "fit", *SMALL, *AVERAGING, *two) == [0, 0]
    run = tmp_path / "averaging" / "version_0"
    for tag in ("ema/loss", "ema/detect/boxes", "ema/box_map", "ema/box_mar"):
        assert curve(run, tag) == pytest.approx(curve(runs[1], tag), abs=1e-4), tag
    ours, theirs = (content(one)["callbacks"]["Ema"]["weights"] for one in (run, runs[1]))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=2e-4, rtol=0)
