"""Promises of mae_vlm.callbacks.predictions: what answers of every kind become on disk."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import numpy as np
import torch
from faster_coco_eval.core import mask as run_length
from PIL import Image

from mae_vlm.callbacks.predictions import Predictions
from mae_vlm.types import Batch, Broken, Frame, Prediction, Target

IDS = ["a/one.png", "two.jpg"]
FRAME = Frame(20, 30, 0, 0, 20, 30, 10, 15)  # seen at half its size on a canvas of 16 x 16
BOXES = torch.tensor([[2.0, 4, 12, 14], [0, 0, 30, 20]])
MASKS = torch.zeros(2, 20, 30, dtype=torch.bool)
MASKS[0, 4:14, 2:12] = MASKS[1, :5] = True
OBJECTS = {"object_scores": torch.tensor([0.9, 0.2]), "object_classes": torch.tensor([1, 0])}
MAP = torch.arange(600).reshape(20, 30).div(300, rounding_mode="floor").to(torch.uint8)


def a_head(classes: int = 2, threshold: float = 0.5):
    return SimpleNamespace(classes=classes, names=["cat", "dog"], ids=[17, 3], threshold=torch.tensor(threshold))


def a_batch() -> Batch:
    images = torch.full((2, 3, 16, 16), 100, dtype=torch.uint8)
    return Batch(
        images, torch.arange(2), torch.ones(2, dtype=torch.bool), torch.full((2,), -1), IDS, targets=[Target(FRAME), Target(FRAME)]
    )


def write(out, answers: dict[str, dict], source: str = "run", draw: bool = False, stop: bool = False, heads=None) -> Predictions:
    """What a run over two pictures leaves behind, ``answers`` for each of them by head; with ``stop`` it ends before the end."""
    module = SimpleNamespace(heads=heads or {name: a_head() for name in answers}, answered=set())
    trainer = SimpleNamespace(is_global_zero=True, global_rank=0, strategy=SimpleNamespace(barrier=lambda: None))
    writer = Predictions(out, source, draw)
    writer.on_predict_start(trainer, module)
    said = {name: [Prediction(id, **answer) for id in IDS] for name, answer in answers.items()}
    writer.write_on_batch_end(trainer, module, said, None, a_batch(), 0, 0)
    if not stop:
        writer.on_predict_end(trainer, module)
    return writer


def names(out) -> list[str]:
    return sorted(str(file.relative_to(out)) for file in out.rglob("*") if file.is_file())


def test_a_map_becomes_a_grey_png_beside_the_names_of_its_numbers(tmp_path):
    writer = write(tmp_path, {"segment": {"semantic": MAP}})
    assert names(tmp_path) == ["maps/a/one.png", "maps/classes.csv", "maps/two.png"]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "maps" / "two.png")), MAP.numpy())
    assert writer.count == 2 and writer.files == [tmp_path / "maps"]


def test_segments_become_cocos_panoptic_files_also_after_another_source_left_some(tmp_path):
    def answer(height, width):
        segments = torch.zeros(height, width, dtype=torch.int32)
        segments[:5] = 1
        return {"segments": segments, "object_scores": torch.tensor([0.9]), "object_classes": torch.tensor([1])}

    write(tmp_path, {"masks": answer(20, 30)}, source="other", stop=True)
    (tmp_path / "panoptic" / "gone.json").write_text("{}")
    write(tmp_path, {"masks": answer(20, 30)}, draw=True)
    drawn = ["drawn/a/one.png", "drawn/two.png"]
    assert names(tmp_path) == [*drawn, "panoptic.json", "panoptic/a/one.png", "panoptic/two.png"]
    told = json.loads((tmp_path / "panoptic.json").read_text())
    assert [(image["file_name"], image["height"], image["width"]) for image in told["images"]] == [(id, 20, 30) for id in IDS]
    assert len(np.unique(np.asarray(Image.open(tmp_path / "drawn" / "two.png")).reshape(-1, 3), axis=0)) > 1


def test_boxes_and_masks_become_cocos_results(tmp_path):
    write(tmp_path, {"detect": {"boxes": BOXES, "masks": MASKS, **OBJECTS}})
    assert names(tmp_path) == ["detections.json", "images.json", "predictions.csv"]
    found = json.loads((tmp_path / "detections.json").read_text())
    assert [(one["image_id"], one["category_id"], one["bbox"]) for one in found] == [
        (number, *one) for number in (1, 2) for one in ((3, [2, 4, 10, 10]), (17, [0, 0, 30, 20]))
    ]
    for one, mask_HW in zip(found, [*MASKS, *MASKS], strict=True):
        assert np.array_equal(run_length.decode([one["segmentation"]])[..., 0] > 0, mask_HW.numpy())
    with (tmp_path / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["class"], row["right"]) for row in rows] == [("a/one.png", "dog", "12.00"), ("two.jpg", "dog", "12.00")]


def test_masks_without_boxes_bring_their_own(tmp_path):
    write(tmp_path, {"masks": {"masks": MASKS, **OBJECTS}}, draw=True)
    assert [one["bbox"] for one in json.loads((tmp_path / "detections.json").read_text())][:2] == [[2, 4, 10, 10], [0, 0, 30, 5]]


def test_pictures_in_which_nothing_was_found_are_listed_all_the_same(tmp_path):
    nothing = {"boxes": torch.zeros(0, 4), "object_scores": torch.zeros(0), "object_classes": torch.zeros(0, dtype=torch.int64)}
    write(tmp_path, {"detect": nothing})
    assert json.loads((tmp_path / "detections.json").read_text()) == []
    assert [one["file_name"] for one in json.loads((tmp_path / "images.json").read_text())["images"]] == IDS


def test_several_heads_write_under_their_names(tmp_path):
    answers = {"detect": {"boxes": BOXES, **OBJECTS}, "what": {"scores": torch.tensor([0.3, 0.7])}, "where": {"semantic": MAP}}
    write(tmp_path, answers)
    maps = ["where_maps/a/one.png", "where_maps/classes.csv", "where_maps/two.png"]
    assert names(tmp_path) == ["detect.csv", "detect_detections.json", "detect_images.json", "what.csv", *maps]


def test_drawn_are_the_objects_that_the_head_believes_without_the_padding(tmp_path):
    for threshold, place in ((0.5, "one"), (0.95, "none")):
        heads = {"detect": a_head(threshold=threshold)}
        write(tmp_path / place, {"detect": {"boxes": BOXES, **OBJECTS}}, draw=True, heads=heads)
    drawn, plain = (np.asarray(Image.open(tmp_path / place / "drawn" / "a" / "one.png")) for place in ("one", "none"))
    scale = 480 // 15
    assert plain.shape == drawn.shape == (10 * scale, 15 * scale, 3) and (plain == 100).all()
    changed = (drawn != 100).any(-1)
    assert changed[2 * scale, scale : 6 * scale].mean() > 0.9, "the upper line of the first box"
    assert not changed[:, -scale:].any(), "the second is not believed"


def test_every_kind_of_answer_is_drawn(tmp_path):
    for place, answer in (("map", {"semantic": MAP}), ("class", {"scores": torch.tensor([0.3, 0.7])})):
        write(tmp_path / place, {"head": answer}, draw=True)
        assert len(np.unique(np.asarray(Image.open(tmp_path / place / "drawn" / "two.png")).reshape(-1, 3), axis=0)) > 1


def test_what_another_source_began_is_thrown_away_and_drawing_is_another(tmp_path):
    answer = {"detect": {"boxes": BOXES, **OBJECTS}}
    for source in ("other", "run"):
        write(tmp_path, answer, source=source, stop=True)
        assert (tmp_path / "detect.0.part.jsonl").read_text().count("\n") == 2
    write(tmp_path, answer, stop=True)
    assert (tmp_path / "detect.0.part.jsonl").read_text().count("\n") == 2, "known pictures are not written again"
    write(tmp_path, answer, draw=True)
    assert len(json.loads((tmp_path / "detections.json").read_text())) == 4
    assert names(tmp_path) == ["detections.json", "drawn/a/one.png", "drawn/two.png", "images.json", "predictions.csv"]


def test_broken_pictures_are_named(tmp_path):
    writer = Predictions(tmp_path, "run")
    module = SimpleNamespace(heads={"what": a_head()}, answered=set())
    trainer = SimpleNamespace(is_global_zero=True, global_rank=0, strategy=SimpleNamespace(barrier=lambda: None))
    writer.on_predict_start(trainer, module)
    batch = a_batch()
    batch.broken = [Broken("three.png", "not a\npicture")]
    writer.write_on_batch_end(trainer, module, {"what": []}, None, batch, 0, 0)
    writer.on_predict_end(trainer, module)
    with (tmp_path / "broken.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["id", "reason"], ["three.png", "not a\npicture"]]
    assert names(tmp_path) == ["broken.csv"]
