"""The query detector through the command line: trained, validated, and its answers as files."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from several_processes import on_processes
from tiny_runs import DATA, ENCODER, MACHINE, REPOSITORY, content, curve, in_process

from mae_vlm.data.sources.scenes import Scenes

CONFIG = ["--config", REPOSITORY / "configs" / "finetune" / "quick_queries.yaml"]
HEAD = ["queries", "6", "groups", "2", "width", "16", "layers", "1", "heads", "2", "hidden", "24"]
SIZES = [word if index % 2 else f"--model.heads.detect.{word}" for index, word in enumerate(HEAD)]
SMALL = [*CONFIG, *MACHINE, *DATA, *ENCODER, *SIZES, "--probes.pictures", "0", "--pictures.count", "2"]
SCALARS = {"box_map", "box_map50", "box_map75", "box_mar", "box_f1", "box_precision", "box_recall", "box_threshold"}
TAGS = {f"val/{name}" for name in SCALARS} | {f"val/detect/{term}" for term in ("classes", "boxes", "overlaps")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("trained")
    assert in_process("fit", *SMALL, "--trainer.max_steps", "8", "--trainer.default_root_dir", root) == 0
    return root / "quick_queries" / "version_0"


def test_a_run_leaves_curves_tables_pictures_and_the_measured_threshold(trained):
    assert all(curve(trained, tag) for tag in TAGS | {"train/detect/boxes"})
    newest = curve(trained, "val/box_threshold")[max(curve(trained, "val/box_threshold"))]
    assert float(content(trained)["state_dict"]["heads.detect.threshold"]) == pytest.approx(newest, abs=1e-5)
    with (trained / "tables" / "boxes.csv").open() as file:
        assert [row["class"] for row in csv.DictReader(file)] == ["circle", "square", "triangle", "star", "ring", "cross", "diamond"]
    assert (trained / "pictures" / "detections_00000008.png").is_file()


def test_a_checkpoint_validates_as_the_run_did(trained, capsys):
    assert in_process("validate", *MACHINE, "--ckpt_path", trained) == 0
    said = capsys.readouterr().out
    assert "val/box_map" in said and "val/box_threshold" in said


def test_predict_writes_cocos_files_in_pixels_of_the_original(trained, tmp_path):
    from torchvision.io import write_png

    (tmp_path / "pictures").mkdir()
    for number in range(3):
        write_png(Scenes(8, (40, 48), seed=5)[number].image, str(tmp_path / "pictures" / f"scene{number}.png"))
    words = ["--ckpt_path", trained, "--data.path", tmp_path / "pictures", "--out", tmp_path / "out", "--draw", "true"]
    assert in_process("predict", *MACHINE, *words) == 0
    found = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert {one["image_id"] for one in found} == {1, 2, 3} and {one["category_id"] for one in found} <= set(range(1, 8))
    for number in (1, 2, 3):
        scores = [one["score"] for one in found if one["image_id"] == number]
        assert scores == sorted(scores, reverse=True) and 1 < len(scores) <= 6 * 7
    boxes_N4 = torch.tensor([one["bbox"] for one in found])
    ends_N2 = boxes_N4[:, :2] + boxes_N4[:, 2:]
    assert (boxes_N4 >= 0).all() and (ends_N2 <= torch.tensor([48.001, 40.001])).all()
    assert len(list((tmp_path / "out" / "drawn").glob("*.png"))) == 3


def test_two_processes_validate_as_one(tmp_path):
    """21 validation pictures are dealt to both, the last place filled up."""
    words = [*SMALL, "--data.val_scenes", "21", "--trainer.max_steps", "1", "--trainer.log_every_n_steps", "1"]
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    assert in_process("fit", *words, "--trainer.default_root_dir", tmp_path / "one") == 0
    assert on_processes(2, in_process, "fit", *words, *two, "--trainer.default_root_dir", tmp_path / "two") == [0, 0]
    runs = [root / "quick_queries" / "version_0" for root in (tmp_path / "one", tmp_path / "two")]
    for tag in TAGS | {"val/loss", "train/loss"}:
        assert curve(runs[1], tag) == pytest.approx(curve(runs[0], tag), abs=1e-4), tag


def test_with_masks_it_measures_and_writes_them_too(tmp_path):
    from torchvision.io import write_png

    (tmp_path / "pictures").mkdir()
    write_png(Scenes(8, (40, 48), seed=5)[0].image, str(tmp_path / "pictures" / "scene.png"))
    length = ["--trainer.max_steps", "2", "--trainer.log_every_n_steps", "1", "--trainer.default_root_dir", tmp_path]
    assert in_process("fit", *SMALL, "--model.heads.detect.masks", "true", *length) == 0
    run = tmp_path / "quick_queries" / "version_0"
    assert all(curve(run, f"val/{tag}") for tag in ("box_map", "mask_map", "mask_map50", "detect/masks", "detect/dice"))
    assert (run / "pictures" / "masks_00000002.png").is_file() and (run / "tables" / "masks.csv").is_file()
    words = ["--ckpt_path", run, "--data.path", tmp_path / "pictures", "--out", tmp_path / "out", "--draw", "true"]
    assert in_process("predict", *MACHINE, *words) == 0
    found = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert len(found) > 1 and all(one["segmentation"]["size"] == [40, 48] and len(one["bbox"]) == 4 for one in found)
