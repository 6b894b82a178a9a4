"""Promises of mae_vlm.data.sources.parts.categories, and of what COCO's files say of their categories."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from pictures_on_disk import SHARED, write_coco

from mae_vlm.data.problems import Problems
from mae_vlm.data.sources import coco
from mae_vlm.data.sources.base import Place, Source
from mae_vlm.data.sources.parts.categories import joined_ids, joined_stuff

BOX = {"image_id": 1, "category_id": 7, "bbox": [1, 2, 10, 8]}


def opened(file, categories: list[dict]) -> Source:
    write_coco(file, [{"id": 1}], [BOX])
    file.write_text(json.dumps(json.loads(file.read_text()) | {"categories": categories}))
    return coco.FORMAT.open(Place(str(file.parent), (file.parent,), problems=Problems()))["all"]


def a_part(names=None, ids=None, stuff=None) -> SimpleNamespace:
    return SimpleNamespace(object_classes=names, object_ids=ids, stuff=stuff)


def test_a_file_tells_its_own_numbers_and_which_classes_are_no_things(tmp_path):
    kinds = [{"id": 7, "name": "cat", "isthing": 1}, {"id": 187, "name": "sky", "isthing": 0}, {"id": 3, "name": "dog"}]
    source = opened(tmp_path / "instances.json", kinds)
    assert (source.object_classes, source.object_ids, source.stuff) == (["cat", "sky", "dog"], [7, 187, 3], ["sky"])


def test_a_file_that_marks_no_category_does_not_say_what_is_stuff(tmp_path):
    source = opened(tmp_path / "instances.json", [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}])
    assert source.object_ids == [7, 3] and source.stuff is None


@pytest.mark.parametrize("other", [{"id": 8, "name": "cat"}, {"id": "x", "name": "dog"}])
def test_names_of_two_numbers_and_numbers_that_are_none_have_none_of_their_own(tmp_path, other):
    assert opened(tmp_path / "instances.json", [{"id": 7, "name": "cat"}, other]).object_ids is None


def test_parts_that_number_their_classes_alike_keep_the_numbers():
    ours, theirs = a_part(["cat", "sky"], [7, 187], ["sky"]), a_part(["dog", "cat"], [3, 7])
    assert joined_ids(["cat", "sky", "dog"], [ours, theirs]) == [7, 187, 3]
    assert joined_stuff(["cat", "sky", "dog"], [ours, theirs]) == ["sky"]


@pytest.mark.parametrize(
    "theirs",
    [a_part(["cat"], [8]), a_part(["dog"], [7]), a_part(["dog"])],
    ids=["another number", "the number of another", "no numbers"],
)
def test_parts_that_do_not_have_no_numbers_together(theirs):
    names = ["cat", *([] if theirs.object_classes == ["cat"] else theirs.object_classes)]
    assert joined_ids(names, [a_part(["cat"], [7]), theirs]) is None
    assert joined_stuff(names, [a_part(["cat"], [7]), theirs]) is None


@pytest.mark.skipif(not (SHARED / "coco128-panoptic").is_dir(), reason="no coco128-panoptic in shared/data")
def test_coco_has_80_things_and_53_kinds_of_stuff():
    place = Place("coco", (SHARED / "coco128-panoptic" / "train",), annotations=("panoptic.json",), problems=Problems())
    source = coco.FORMAT.open(place)["all"]
    assert len(source.object_ids) == 133 and source.object_ids[-1] == 200 and source.object_ids[79] == 90
    assert len(source.stuff) == 53 and "sky-other-merged" in source.stuff and "person" not in source.stuff
