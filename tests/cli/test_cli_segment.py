"""From scenes, or a run pretrained on them, to a trained segmenter and its maps, through the command line."""

from __future__ import annotations

import csv
import re

import pytest
import torch
import yaml
from several_processes import on_processes
from tiny_runs import DATA, ENCODER, MACHINE, REPOSITORY, TINY, content, curve, in_process

CONFIG = ["--config", REPOSITORY / "configs" / "finetune" / "quick_segment.yaml"]
QUIET = ["--trainer.enable_progress_bar", "false"]
SMALL = [*CONFIG, *MACHINE, *DATA, *ENCODER, *QUIET]
LARGER = ["--data.val_size", "[48,64]"]  # six windows of 32 x 32
UPERNET = ["--model.heads.segment.decoder", "mae_vlm.heads.parts.upernet.UperNet", "--model.heads.segment.decoder.channels", "8"]
VALIDATION = {"val/loss", "val/segment/cross_entropy", "val/miou", "val/pixel_accuracy"}
CLASSES = ["background", "circle", "square", "triangle", "star", "ring", "cross", "diamond"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """UPerNet with its second loss, one class ignored, validated through windows, probed and drawn."""
    root = tmp_path_factory.mktemp("trained")
    more = ["--model.heads.segment.auxiliary", "0.4", "--model.heads.segment.ignore", "[ring]", "--ema.decay", "0.9"]
    length = ["--trainer.max_steps", "6", "--trainer.log_every_n_steps", "1", "--trainer.val_check_interval", "3"]
    assert in_process("fit", *SMALL, *LARGER, *UPERNET, *more, *length, "--trainer.default_root_dir", root) == 0
    return root / "quick_segment" / "version_0"


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    root = tmp_path_factory.mktemp("pretrained")
    words = [*TINY, *QUIET, "--probes.pictures", "0", "--trainer.max_steps", "2", "--trainer.default_root_dir", root]
    assert in_process("fit", *words) == 0
    return root / "default" / "version_0"


def test_a_run_leaves_curves_a_table_of_the_classes_that_occur_its_best_and_pictures(trained):
    losses = {"train/loss", "train/segment/cross_entropy", "train/segment/auxiliary"}
    assert all(curve(trained, tag) for tag in VALIDATION | losses)
    assert "val/segment/auxiliary" not in (trained / "metrics.csv").read_text()
    with (trained / "tables" / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["class"] for row in rows} <= {*CLASSES} - {"ring"}
    assert sum(int(row["pixels"]) for row in rows) > 0.8 * 12 * 48 * 48
    miou = curve(trained, "val/miou")
    assert content(trained, "best")["global_step"] - 1 == max(miou, key=lambda step: (miou[step], -step))
    names = {file.name for file in (trained / "pictures").iterdir()}
    assert {"segmentation_00000006.png", "confusion_00000006.png", "features_00000006.png"} <= names


def test_the_classes_are_those_of_the_data_background_first(trained):
    head = yaml.safe_load((trained / "config.yaml").read_text())["model"]["init_args"]["heads"]["segment"]["init_args"]
    assert head["classes"] == CLASSES


def test_a_trained_run_is_measured_again_as_it_was(trained, capsys):
    assert in_process("validate", *MACHINE, *QUIET, "--ckpt_path", trained) == 0
    told = re.search(r"val/miou\W+([\d.]+)", capsys.readouterr().out)
    assert float(told[1]) == pytest.approx(curve(trained, "val/miou")[5], abs=1e-6)


def test_another_canvas_can_be_asked_for_where_a_run_is_used(trained):
    assert in_process("validate", *MACHINE, *QUIET, "--ckpt_path", trained, "--data.val_size", "32") == 0


def test_the_encoder_is_taken_from_a_pretrained_run(pretrained, tmp_path, capsys):
    words = [*CONFIG, *MACHINE, *DATA, *QUIET, "--probes.pictures", "0", "--trainer.max_steps", "1", "--trainer.default_root_dir", tmp_path]
    assert in_process("fit", *words, "--model.weights", pretrained) == 0
    run = tmp_path / "quick_segment" / "version_0"
    assert "weights taken" in capsys.readouterr().out
    options = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["encoder"]["init_args"]
    assert {name: options[name] for name in ("width", "depth", "patch")} == {"width": 32, "depth": 2, "patch": 8}


def fit(root, *words):
    more = ["--probes.pictures", "0", "--data.val_scenes", "21", "--trainer.max_steps", "1", "--trainer.log_every_n_steps", "1"]
    assert in_process("fit", *SMALL, *LARGER, *more, "--trainer.default_root_dir", root, *words) == 0


@pytest.mark.slow
def test_two_processes_validate_as_one(tmp_path):
    """21 validation pictures are dealt to both, the last place filled up; each shows other classes."""
    fit(tmp_path / "one")
    on_processes(2, fit, str(tmp_path / "two"), "--trainer.devices", "2", "--trainer.strategy", "ddp")
    one, two = (tmp_path / name / "quick_segment" / "version_0" for name in ("one", "two"))
    for tag in VALIDATION | {"train/loss"}:
        assert curve(two, tag) == pytest.approx(curve(one, tag), abs=1e-5), tag
    before, after = ((run / "tables" / "confusion.csv").read_text() for run in (one, two))
    counts = [[[int(cell) for cell in row.split(",")[1:]] for row in text.splitlines()[1:]] for text in (before, after)]
    assert [sum(row) for row in counts[0]] == [sum(row) for row in counts[1]], "each true pixel counts once"


@pytest.mark.parametrize(
    "words, told",
    [
        (["--data.val_size", "16"], "data.val_size 16: pictures of 16 x 16 cannot be looked at through windows of 32 x 32"),
        (["--data.val_size", "36"], "data.val_size 36: pictures of 36 x 36 cannot be looked at .* multiples of the patch 8"),
        (["--data.val_size", "0"], "data.val_size 0 must be positive"),
        (["--model.heads.segment.ignore", "[yak]"], "ignore yak is none of the classes background, circle"),
    ],
    ids=str,
)
def test_mistakes_are_told_in_one_line(words, told, tmp_path, capsys):
    assert in_process("fit", *SMALL, *words, "--trainer.default_root_dir", tmp_path) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "mae_vlm" in line]
    assert re.search(told, line)


def test_larger_validation_pictures_are_refused_where_nothing_looks_through_windows(tmp_path, capsys):
    assert in_process("fit", *TINY, "--data.val_size", "64", "--trainer.default_root_dir", tmp_path) == 1
    assert "data.val_size 64 is larger than the encoder's pictures, which pretraining does not take" in capsys.readouterr().err


@pytest.fixture
def pictures(tmp_path):
    """Six pictures of two sizes in two folders, and a broken one."""
    from torchvision.io import write_png

    for number in range(6):
        file = tmp_path / "pictures" / f"part {number % 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_png(torch.full((3, 40, 50 + 10 * (number % 2)), 40 * number, dtype=torch.uint8), str(file))
    (tmp_path / "pictures" / "part 0" / "broken.png").write_bytes(b"no picture")
    return tmp_path / "pictures"


def test_predict_writes_a_map_of_each_picture_in_its_own_pixels_and_goes_on_after_a_kill(trained, pictures, tmp_path, monkeypatch):
    from PIL import Image

    from mae_vlm.callbacks import predictions

    out = tmp_path / "out"
    words = ["predict", *MACHINE, *QUIET, "--ckpt_path", trained, "--data.path", pictures, "--data.batch_size", "2", "--out", out]
    write, written = predictions.write_map, []

    def dies(place, prediction):
        if len(written) == 3:  # at the third batch: the broken picture has a place in the second
            raise KeyboardInterrupt
        written.append(prediction.id)
        return write(place, prediction)

    with monkeypatch.context() as patch:
        patch.setattr(predictions, "write_map", dies)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            raise SystemExit(in_process(*words))
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.png")}
    assert len(before) == len(written) == 3
    assert in_process(*words) == 0
    files = sorted(out.rglob("*.png"))
    assert [file.name for file in files] == ["0.png", "2.png", "4.png", "1.png", "3.png", "5.png"]
    assert all(file.stat().st_mtime_ns == time for file, time in before.items()), "what is there is not computed again"
    for file in files:
        with Image.open(file) as image:
            assert image.mode == "L" and image.size == (50 + 10 * (int(file.stem) % 2), 40)
            assert set(image.getdata()) <= {*range(8)} - {5}
    with next(out.rglob("classes.csv")).open() as file:
        assert [row["class"] for row in csv.DictReader(file)] == CLASSES
    with (out / "broken.csv").open() as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["part 0/broken.png"]
