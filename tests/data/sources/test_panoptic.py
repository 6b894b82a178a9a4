from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from pictures_on_disk import SHARED, write_coco, write_mask

from mae_vlm.data.problems import Problems
from mae_vlm.data.sources import coco, mask_folder
from mae_vlm.data.sources.base import Joined, Place, Source
from mae_vlm.types import Sample

NAMES = {90: "sky", 4: "cat", 17: "grass"}
IDS = np.zeros((20, 24), np.int64)
IDS[:5], IDS[5:15, :12], IDS[15:] = 70_000, 300, 9


def segment(id: int, category: int, bbox: list, **others) -> dict:
    return {"id": id, "category_id": category, "bbox": bbox, **others}


SEGMENTS = [segment(70_000, 90, [0, 0, 24, 5]), segment(300, 4, [0, 5, 12, 10], iscrowd=1), segment(9, 17, [0, 15, 24, 5])]


def written(root, segments=SEGMENTS, ids=IDS, json_file="panoptic.json", maps="panoptic", pictures="images"):
    annotations = [{"image_id": 1, "file_name": "1.png", "segments_info": segments}]
    write_coco(root / json_file, [{"id": 1}, {"id": 2}], annotations, NAMES, folder=pictures)
    write_mask(root / maps / "1.png", ids, "RGB")
    return opened(root)


def opened(root):
    place = Place(str(root), (root,), problems=Problems())
    return coco.FORMAT.open(place)["all"], place.problems


OFFICIAL = {"json_file": "annotations/panoptic_x.json", "maps": "annotations/panoptic_x", "pictures": "../images"}


@pytest.mark.parametrize("layout", [{}, OFFICIAL])
def test_segments_become_objects_and_the_semantic_mask(tmp_path, layout):
    source, problems = written(tmp_path, **layout)
    assert source.object_classes == ["sky", "cat", "grass"] and not problems
    sample = source[0]
    assert sample.classes.tolist() == [0, 1, 2] and sample.crowds.tolist() == [False, True, False]
    assert sample.boxes.tolist() == [[0, 0, 24, 5], [0, 5, 12, 15], [0, 15, 24, 20]]
    masks, semantic = sample.masks.decode(), sample.semantic.decode()
    assert all(np.array_equal(mask, id == IDS) for mask, id in zip(masks.numpy(), (70_000, 300, 9), strict=True))
    truth = np.select([IDS == 70_000, IDS == 300, IDS == 9], [0, 1, 2], 255)
    assert semantic.dtype == torch.uint8 and np.array_equal(semantic, truth)


def test_a_picture_without_a_map_has_no_masks_and_no_objects(tmp_path):
    sample = written(tmp_path)[0][1]
    assert sample.masks is None and sample.semantic is None and len(sample.boxes) == 0


def test_a_segment_that_cannot_be_used_is_unlabelled_in_the_semantic_mask(tmp_path):
    source, problems = written(tmp_path, [SEGMENTS[0], segment(300, 99, [0, 5, 12, 10])])
    sample = source[0]
    assert problems.counts == {"unknown class": 1} and problems.first[0].id == "300"
    assert len(sample.masks.decode()) == 1 and set(sample.semantic.decode()[5:].flatten().tolist()) == {255}


def test_a_missing_map_is_counted_and_the_picture_stays(tmp_path):
    written(tmp_path)
    (tmp_path / "panoptic" / "1.png").unlink()
    source, problems = opened(tmp_path)
    assert problems.counts == {"panoptic map missing": 1} and len(source) == 2 and source[0].masks is None


def test_a_segment_that_the_map_does_not_have_is_named_when_decoded(tmp_path):
    sample = written(tmp_path, [*SEGMENTS, segment(12345, 4, [0, 0, 5, 5])])[0][0]
    with pytest.raises(ValueError, match=r"1\.png: segment 12345 has no pixel in 1\.png"):
        sample.masks.decode()


def test_a_map_of_another_size_is_named_when_decoded(tmp_path):
    sample = written(tmp_path, ids=IDS[:10])[0][0]
    for part in (sample.masks, sample.semantic):
        with pytest.raises(ValueError, match=r"1\.png: mask is 24 x 10, picture 24 x 20"):
            part.decode()


def test_a_damaged_map_is_named_when_decoded(tmp_path):
    sample = written(tmp_path)[0][0]
    (tmp_path / "panoptic" / "1.png").write_bytes((tmp_path / "panoptic" / "1.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"1\.png: mask .*panoptic/1\.png cannot be read"):
        sample.semantic.decode()


class OnePicture(Source):
    def __init__(self, classes: list[str], semantic) -> None:
        self.object_classes, self._semantic = classes, semantic

    def __len__(self) -> int:
        return 1

    def name(self, index: int) -> str:
        return "a"

    def __getitem__(self, index: int) -> Sample:
        return Sample("a", b"", semantic=self._semantic)


def test_joined_parts_have_one_numbering_of_semantic_masks():
    first, second = torch.tensor([[0, 1, 255]], dtype=torch.uint8), torch.tensor([[1, 0, 255]], dtype=torch.uint8)
    joined = Joined([OnePicture(["sky", "cat"], first), OnePicture(["dog", "sky"], second)])
    assert joined.object_classes == ["sky", "cat", "dog"]
    assert joined[0].semantic is first and joined[1].semantic.decode().tolist() == [[0, 2, 255]]


def test_joined_parts_of_many_classes_are_int16_with_minus_one():
    small, many = torch.tensor([[0, 255]], dtype=torch.uint8), torch.tensor([[299, -1]], dtype=torch.int16)
    joined = Joined([OnePicture(["c0"], small), OnePicture([f"c{k}" for k in range(300)], many)])
    found = [joined[i].semantic.decode() for i in range(2)]
    assert [mask.dtype for mask in found] == [torch.int16] * 2 and [mask.tolist() for mask in found] == [[[0, -1]], [[299, -1]]]


@pytest.mark.parametrize(("part", "count"), [("train", 56), ("val", 14)])
def test_real_panoptic_maps_give_the_semantic_masks_that_lie_beside_them(part, count):
    root = SHARED / "coco128-panoptic" / part
    if not root.exists():
        pytest.skip("coco128-panoptic of the shared data sets is not here")
    place = Place(str(root), (root,), annotations=("panoptic.json",))
    maps = coco.FORMAT.open(place)["all"]
    plain = mask_folder.FORMAT.open(Place(str(root), (root,), annotations=("semantic",)))["all"]
    segments = sum(len(one["segments_info"]) for one in json.loads((root / "panoptic.json").read_text())["annotations"])
    assert len(maps) == len(plain) == count and not place.problems
    assert maps.object_classes == plain.object_classes and len(maps.object_classes) == 133
    assert sum(len(maps[i].classes) for i in range(count)) == segments
    for index in range(0, count, 5):
        assert torch.equal(maps[index].semantic.decode(), plain[index].semantic.decode())
        assert (maps[index].masks.decode().sum(0) <= 1).all()


def test_a_map_outside_the_collection_is_counted_and_not_read(tmp_path):
    written(tmp_path / "c")
    write_mask(tmp_path / "secret.png", IDS, "RGB")
    file = tmp_path / "c" / "panoptic.json"
    file.write_text(file.read_text().replace('"file_name": "1.png", "segments_info"', '"file_name": "../../secret.png", "segments_info"'))
    source, problems = opened(tmp_path / "c")
    assert problems.counts == {"panoptic map outside the collection": 1} and source[0].masks is None
