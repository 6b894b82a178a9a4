"""A detector through the command line: trained, validated, and its answers as files."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from several_processes import on_processes
from tiny_runs import DATA, ENCODER, MACHINE, REPOSITORY, content, curve, in_process

from mae_vlm.data.module import Data
from mae_vlm.data.sources.scenes import Scenes

CONFIG = ["--config", REPOSITORY / "configs" / "finetune" / "quick_detect.yaml"]
HEAD = ["--model.heads.detect.width", "16", "--model.heads.detect.layers", "1", "--probes.pictures", "0", "--pictures.count", "2"]
SMALL = [*CONFIG, *MACHINE, *DATA, *ENCODER, *HEAD]
SCALARS = {"box_map", "box_map50", "box_map75", "box_mar", "box_f1", "box_precision", "box_recall", "box_threshold"}
TAGS = {f"val/{name}" for name in SCALARS} | {f"val/detect/{term}" for term in ("classes", "boxes", "quality")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("trained")
    assert in_process("fit", *SMALL, "--trainer.max_steps", "8", "--trainer.default_root_dir", root) == 0
    return root / "quick_detect" / "version_0"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Five scenes of 48 x 40 pixels in two folders, without annotations, and a broken picture."""
    from torchvision.io import write_png

    folder = tmp_path_factory.mktemp("pictures")
    (folder / "more").mkdir()
    for number in range(5):
        place = folder / "more" if number > 2 else folder
        write_png(Scenes(8, (40, 48), seed=5)[number].image, str(place / f"scene{number}.png"))
    (folder / "broken.png").write_bytes((folder / "scene0.png").read_bytes()[:40])
    return folder


@pytest.fixture(scope="module")
def answered(trained, pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("answers") / "out"
    assert in_process("predict", *MACHINE, "--ckpt_path", trained, "--data.path", pictures, "--out", out, "--draw", "true") == 0
    return out


def threshold_of(run) -> float:
    return float(content(run)["state_dict"]["heads.detect.threshold"])


def test_a_run_leaves_curves_tables_pictures_and_the_measured_threshold(trained):
    assert all(curve(trained, tag) for tag in TAGS | {"train/detect/boxes"})
    newest = curve(trained, "val/box_threshold")[max(curve(trained, "val/box_threshold"))]
    assert threshold_of(trained) == pytest.approx(newest, abs=1e-5) and newest != 0.5, "the one it began with"
    with (trained / "tables" / "boxes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["circle", "square", "triangle", "star", "ring", "cross", "diamond"]
    data = Data(scenes=64, val_scenes=12, image_size=32, num_workers=0)
    data.wants = frozenset({"boxes"})
    objects = sum(len(target.boxes) for batch in data.val_dataloader() for target in batch.targets)
    assert sum(int(row["objects"]) for row in rows) == objects
    assert (trained / "pictures" / "detections_00000008.png").is_file()
    assert (trained / "pictures" / "precision_recall_00000008.png").is_file()


def test_a_checkpoint_validates_as_the_run_did(trained, capsys):
    assert in_process("validate", *MACHINE, "--ckpt_path", trained) == 0
    said = capsys.readouterr().out
    assert "val/box_map" in said and "val/box_threshold" in said


def test_predict_writes_cocos_files_in_pixels_of_the_original(answered, pictures):
    images, found = (json.loads((answered / name).read_text()) for name in ("images.json", "detections.json"))
    names = ["more/scene3.png", "more/scene4.png", "scene0.png", "scene1.png", "scene2.png"]
    assert [image["file_name"] for image in images["images"]] == names and [image["id"] for image in images["images"]] == [1, 2, 3, 4, 5]
    assert all((image["height"], image["width"]) == (40, 48) for image in images["images"])
    assert [category["name"] for category in images["categories"]] == ["circle", "square", "triangle", "star", "ring", "cross", "diamond"]
    assert {one["image_id"] for one in found} == {1, 2, 3, 4, 5} and {one["category_id"] for one in found} <= set(range(1, 8))
    for number in range(1, 6):
        scores = [one["score"] for one in found if one["image_id"] == number]
        assert scores == sorted(scores, reverse=True) and 1 < len(scores) <= 100 and 0 < scores[-1] <= scores[0] < 1
    boxes_N4 = torch.tensor([one["bbox"] for one in found])
    ends_N2 = boxes_N4[:, :2] + boxes_N4[:, 2:]
    assert (boxes_N4 >= 0).all() and (ends_N2 <= torch.tensor([48.001, 40.001])).all()
    assert ends_N2[:, 0].max() > 40, "wider than the 32 pixels that the model saw"


def test_cocos_own_reader_takes_them(answered):
    coco, cocoeval = pytest.importorskip("faster_coco_eval").COCO, pytest.importorskip("faster_coco_eval").COCOeval_faster
    about = json.loads((answered / "images.json").read_text())
    best = json.loads((answered / "detections.json").read_text())[0]
    truth = {"id": 1, "image_id": best["image_id"], "category_id": best["category_id"], "bbox": best["bbox"], "iscrowd": 0, "area": 9.0}
    true = coco(about | {"annotations": [truth]})
    judged = cocoeval(true, true.loadRes(str(answered / "detections.json")), "bbox")
    judged.evaluate()
    judged.accumulate()
    judged.summarize()
    assert judged.stats[1] == pytest.approx(1.0)


def test_the_table_lists_those_above_the_threshold_and_every_picture_is_drawn(answered, trained):
    found = json.loads((answered / "detections.json").read_text())
    with (answered / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    sure = [one["score"] for one in found if one["score"] >= threshold_of(trained)]
    assert sorted(float(row["score"]) for row in rows) == pytest.approx(sorted(sure), abs=1e-6) and 0 < len(rows) < len(found)
    assert list(rows[0]) == ["id", "class", "score", "left", "top", "right", "bottom"]
    drawn = sorted(str(file.relative_to(answered / "drawn")) for file in (answered / "drawn").rglob("*.png"))
    assert drawn == ["more/scene3.png", "more/scene4.png", "scene0.png", "scene1.png", "scene2.png"]
    with (answered / "broken.csv").open() as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["broken.png"]
    left = {file.name for file in answered.iterdir()}
    assert left == {"broken.csv", "predictions.csv", "detections.json", "images.json", "drawn"}


def test_predict_goes_on_after_a_kill(trained, pictures, answered, tmp_path, monkeypatch):
    from mae_vlm.callbacks.predictions import Predictions

    words = ["predict", *MACHINE, "--ckpt_path", trained, "--data.path", pictures, "--data.batch_size", "2", "--out", tmp_path / "out"]
    append, written = Predictions._append, []

    def dies(self, name, text):
        append(self, name, text)
        written.extend(text.splitlines() if "detect" in name else [])
        if len(written) >= 3:
            with next(self.out.glob("detect.*.part.jsonl")).open("a") as file:
                file.write('{"id": "half')
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Predictions, "_append", dies)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            in_process(*words)
            raise SystemExit
    left = next((tmp_path / "out").glob("detect.*.part.jsonl"))
    first = json.loads(left.read_text().splitlines()[0])
    left.write_text(left.read_text().replace(json.dumps(first), json.dumps(first | {"objects": []})))  # shows whether it is computed again
    assert in_process(*words) == 0
    ours, theirs = (json.loads((out / "detections.json").read_text()) for out in (tmp_path / "out", answered))
    number = {image["file_name"]: image["id"] for image in json.loads((answered / "images.json").read_text())["images"]}[first["id"]]
    assert (tmp_path / "out" / "images.json").read_text() == (answered / "images.json").read_text()
    assert {one["image_id"] for one in theirs} - {one["image_id"] for one in ours} == {number}, "what was written before the kill stays"


def test_two_processes_validate_as_one(tmp_path):
    """21 validation pictures are dealt to both, the last place filled up."""
    words = [*SMALL, "--data.val_scenes", "21", "--trainer.max_steps", "1", "--trainer.log_every_n_steps", "1"]
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    assert in_process("fit", *words, "--trainer.default_root_dir", tmp_path / "one") == 0
    assert on_processes(2, in_process, "fit", *words, *two, "--trainer.default_root_dir", tmp_path / "two") == [0, 0]
    runs = [root / "quick_detect" / "version_0" for root in (tmp_path / "one", tmp_path / "two")]
    for tag in TAGS | {"val/loss", "train/loss"}:
        assert curve(runs[1], tag) == pytest.approx(curve(runs[0], tag), abs=1e-4), tag


def test_data_without_boxes_is_told(complaint, pictures, tmp_path):
    words = [*CONFIG, *MACHINE, "--data.path", pictures, "--data.val_fraction", "0.3", "--trainer.default_root_dir", tmp_path / "runs"]
    assert "has no boxes of named objects to learn; give them with data.annotations" in complaint("fit", *words)
