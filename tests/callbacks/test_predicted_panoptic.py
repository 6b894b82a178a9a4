"""Promises of mae_vlm.callbacks.predicted_panoptic."""

from __future__ import annotations

import json

import torch
from torchvision.io import ImageReadMode, decode_image, write_png

from mae_vlm.callbacks.predicted_panoptic import join_panoptic, write_panoptic
from mae_vlm.data.problems import Problems
from mae_vlm.data.sources import coco
from mae_vlm.data.sources.base import Place
from mae_vlm.types import Prediction

IDS = [87, 17, 18]  # of sky, cat and dog in the collection's files


def a_prediction(id: str) -> Prediction:
    """300 segments of one pixel each in the uppermost row, one of half the picture, and one without a pixel."""
    segments = torch.zeros(20, 400, dtype=torch.int32)
    segments[0, :300] = torch.arange(1, 301)
    segments[10:, 5:] = 301
    return Prediction(id, object_scores=torch.full((302,), 0.9), object_classes=torch.arange(302) % 3, segments=segments)


def test_segments_are_told_by_colour_with_their_class_area_and_box(tmp_path):
    entry = write_panoptic(tmp_path, a_prediction("night/1.jpg"), IDS)
    picture = decode_image(str(tmp_path / "panoptic" / "night" / "1.png"), ImageReadMode.RGB).long()
    assert torch.equal(picture[0] + 256 * picture[1] + 65536 * picture[2], a_prediction("x").segments.long())
    assert len(entry["segments_info"]) == 301 and entry == json.loads((tmp_path / "panoptic" / "night" / "1.json").read_text())
    last = entry["segments_info"][-1]
    assert last == {"id": 301, "category_id": 87, "score": 0.9, "area": 3950, "bbox": [5, 10, 395, 10], "iscrowd": 0}


def test_a_picture_in_which_nothing_is_told_has_an_empty_entry(tmp_path):
    none = torch.zeros(0)
    entry = write_panoptic(
        tmp_path, Prediction("a.png", object_scores=none, object_classes=none.long(), segments=torch.zeros(4, 4).int()), IDS
    )
    assert entry["segments_info"] == [] and (tmp_path / "panoptic" / "a.png").is_file()


def test_what_is_written_can_be_read_as_a_collection(tmp_path):
    for number in (1, 2):
        write_png(torch.zeros(3, 20, 400, dtype=torch.uint8), str(tmp_path / f"{number}.png"))
        write_panoptic(tmp_path, a_prediction(f"{number}.png"), IDS)
    file = join_panoptic(tmp_path, ["sky", "cat", "dog"], IDS, {f"{number}.png": (20, 400) for number in (1, 2)})
    assert sorted(one.name for one in (tmp_path / "panoptic").iterdir()) == ["1.png", "2.png"]
    problems = Problems()
    source = coco.FORMAT.open(Place(str(tmp_path), (tmp_path,), annotations=(file.name,), problems=problems))["all"]
    sample, said = source[0], a_prediction("1.png")
    assert not problems and len(source) == 2 and source.object_classes == ["sky", "cat", "dog"]
    assert source.object_ids == IDS
    masks = sample.masks.decode()
    assert torch.equal(sample.classes, said.object_classes[:301]) and all(
        torch.equal(mask, said.segments == number) for number, mask in enumerate(masks, start=1)
    )
