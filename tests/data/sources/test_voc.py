from __future__ import annotations

import numpy as np
import pytest
import torch
from pictures_on_disk import SHARED, write_folder, write_mask

from mae_vlm.data.collection import open_collection
from mae_vlm.data.problems import Problems
from mae_vlm.data.sources import coco, voc
from mae_vlm.data.sources.base import Place

HEAD = '<?xml version="1.0"?>\n'


def thing(name: str = "cat", box=(3, 4, 12, 9), difficult: int = 0) -> str:
    sides = "".join(f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{sides}</bndbox></object>"


def write_xml(file, *things: str, head: str = HEAD, filename: str = "") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    size = "<size><width>24</width><height>20</height><depth>3</depth></size>"
    file.write_text(f"{head}<annotation><filename>{filename}</filename>{size}{''.join(things)}</annotation>")


def opened(root, classes=None):
    place = Place(str(root), (root,), object_classes=classes, problems=Problems())
    assert voc.FORMAT.claims(place)
    return voc.FORMAT.open(place), place.problems


@pytest.mark.parametrize(("pictures", "xml"), [("images", "annotations"), (".", "."), ("images", "images"), ("", "Annotations")])
def test_boxes_are_read_as_written_from_annotations_beside_the_pictures(tmp_path, pictures, xml):
    write_folder(tmp_path / pictures, ["a.png", "b.png"])
    write_xml(tmp_path / xml / "a.xml", thing("dog"), thing("cat", (0, 0, 24, 20), difficult=1))
    source, problems = opened(tmp_path)
    sample = source["all"][0]
    assert source["all"].object_classes == ["cat", "dog"] and not problems
    assert sample.boxes.tolist() == [[3, 4, 12, 9], [0, 0, 24, 20]] and sample.classes.tolist() == [1, 0]
    assert sample.crowds.tolist() == [False, True] and sample.masks is None  # difficult objects do not count
    assert len(source["all"]) == 2 and source["all"][1].boxes.shape == (0, 4)


def official(root, year="VOC2007", **lists):
    home = root / year if year else root
    for names in lists.values():
        write_folder(home / "JPEGImages", [f"{name}.png" for name in names])
        for name in names:
            write_xml(home / "Annotations" / f"{name}.xml", thing("cat", (1, 1, 24, 20)))
    for split, names in lists.items():
        (home / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (home / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}  1\n" for name in names))
    return home


@pytest.mark.parametrize("year", ["", "VOC2012"])
def test_the_official_layout_brings_its_split_and_counts_pixels_from_one(tmp_path, year):
    official(tmp_path, year, train=["a", "b"], val=["c"])
    found = open_collection(Place(str(tmp_path)))
    assert found.format == "voc" and {split: len(source) for split, source in found.parts.items()} == {"train": 2, "val": 1}
    assert found.parts["val"].name(0) == "c.png" and found.parts["val"][0].boxes.tolist() == [[0, 0, 24, 20]]


def test_two_years_are_joined_part_by_part(tmp_path):
    official(tmp_path, "VOC2007", trainval=["a"], test=["b"])
    official(tmp_path, "VOC2012", train=["c", "d"], val=["e"])
    assert {split: len(source) for split, source in opened(tmp_path)[0].items()} == {"train": 3, "test": 1, "val": 1}


def test_a_list_without_its_pictures_is_a_part_that_was_not_downloaded(tmp_path):
    home = official(tmp_path, "", train=["a", "b"], val=["c"], test=["d"])
    (home / "JPEGImages" / "d.png").unlink()
    (home / "JPEGImages" / "b.png").unlink()
    parts, problems = opened(tmp_path)
    assert {split: len(source) for split, source in parts.items()} == {"train": 1, "val": 1}
    assert problems.counts == {"picture missing": 1} and problems.first[0].id == "b"


def test_object_masks_follow_the_order_of_the_xml_even_where_a_box_is_left_out(tmp_path):
    home = official(tmp_path, "", train=["a"], val=["b"])
    write_xml(home / "Annotations" / "a.xml", thing("cat", (5, 5, 4, 9)), thing("dog", (3, 4, 12, 9)))
    numbers = np.zeros((20, 24), np.uint8)
    numbers[0, 0], numbers[3:9, 2:12], numbers[9] = 1, 2, 255
    write_mask(home / "SegmentationObject" / "a.png", numbers, "P")
    parts, problems = opened(tmp_path)
    sample = parts["train"][0]
    assert problems.counts == {"box of zero size": 1} and sample.boxes.tolist() == [[2, 3, 12, 9]]
    assert np.array_equal(sample.masks.decode().numpy(), [numbers == 2]) and parts["val"][0].masks is None


BAD = {
    "box of zero size": thing(box=(5, 5, 5, 9)),
    "box outside the picture": thing(box=(30, 5, 40, 9)),
    "box is not four finite numbers": thing(box=(1, "x", 5, 9)),
    "unknown class": thing("fox"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_object_is_counted_with_file_and_number_and_left_out(tmp_path, kind):
    write_folder(tmp_path / "images", ["a.png"])
    write_xml(tmp_path / "annotations" / "a.xml", thing(), BAD[kind])
    parts, problems = opened(tmp_path, ["dog", "cat"])
    assert problems.counts == {kind: 1} and parts["all"][0].classes.tolist() == [1]
    assert problems.first[0].file.endswith("annotations/a.xml") and problems.first[0].id == "a.png, object 2"


def test_files_without_a_picture_are_counted_and_their_filename_is_tried(tmp_path):
    write_folder(tmp_path / "images", ["a.png"])
    write_xml(tmp_path / "annotations" / "x.xml", thing(), filename="a.png")
    write_xml(tmp_path / "annotations" / "y.xml", thing(), filename="gone.png")
    write_xml(tmp_path / "annotations" / "z.xml", thing(), thing(), filename="a.png")
    parts, problems = opened(tmp_path)
    assert len(parts["all"][0].boxes) == 1
    assert problems.counts == {"picture missing": 1, "second annotation of a picture": 1}


BOMB = HEAD + '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'


@pytest.mark.parametrize("head", [BOMB, HEAD + '<!DOCTYPE x SYSTEM "file:///etc/passwd">', "<broken", HEAD + "<other/>"])
def test_document_types_and_damage_are_counted_and_the_picture_stays(tmp_path, head):
    write_folder(tmp_path / "images", ["a.png", "b.png"])
    write_xml(tmp_path / "annotations" / "a.xml", thing())
    write_xml(tmp_path / "annotations" / "b.xml", thing("&b;"), head=head)
    parts, problems = opened(tmp_path)
    assert problems.counts == {"damaged xml": 1} and len(parts["all"]) == 2 and len(parts["all"][1].boxes) == 0


def test_a_document_type_is_refused_in_other_encodings_too(tmp_path):
    write_folder(tmp_path / "images", ["a.png"])
    write_xml(tmp_path / "annotations" / "a.xml", thing())
    text = (tmp_path / "annotations" / "a.xml").read_text().replace(HEAD, '<!DOCTYPE x [<!ENTITY a "a">]>')
    (tmp_path / "annotations" / "a.xml").write_bytes(text.encode("utf-16"))
    place = Place("", (tmp_path,))
    assert len(voc.FORMAT.open(place)["all"][0].boxes) == 0 and "document type" in place.problems.first[0].text


def test_xml_of_other_kinds_and_plain_folders_are_not_claimed(tmp_path):
    write_folder(tmp_path, ["a.png"])
    assert not voc.FORMAT.claims(Place("", (tmp_path,)))
    (tmp_path / "a.xml").write_text("<html/>")
    assert not voc.FORMAT.claims(Place("", (tmp_path,)))


@pytest.mark.parametrize(("part", "count", "boxes", "flat"), [("train", 205, 2804, 1), ("val", 87, 1137, 1), ("test", 72, 945, 0)])
def test_real_xml_files_say_what_their_coco_twin_says(part, count, boxes, flat):
    root = SHARED / "bccd" / part
    if not root.exists():
        pytest.skip("bccd of the shared data sets is not here")
    parts, problems = opened(root)
    source = parts["all"]
    assert len(source) == count and problems.counts["box of zero size"] == len(problems) == flat
    samples = {source.name(i): source[i] for i in range(count)}
    assert sum(len(sample.boxes) for sample in samples.values()) == boxes
    twin = coco.FORMAT.open(Place(str(root), (root,), object_classes=source.object_classes))["all"]
    for index in range(0, count, 9):
        assert torch.equal(twin[index].boxes, samples[twin.name(index)].boxes)
        assert torch.equal(twin[index].classes, samples[twin.name(index)].classes)


def test_lists_may_write_the_suffix(tmp_path):
    home = official(tmp_path, "", train=["a"], val=["b.c"])
    (home / "ImageSets" / "Main" / "train.txt").write_text("a.jpg\n")
    parts, problems = opened(tmp_path)
    assert {split: len(source) for split, source in parts.items()} == {"train": 1, "val": 1} and not problems


def test_lists_of_pictures_that_are_not_there_are_told(tmp_path):
    home = official(tmp_path, "", train=["a"])
    (home / "ImageSets" / "Main" / "train.txt").write_text("x\ny\n")
    with pytest.raises(ValueError, match=r"no picture that .*Main lists \(train\.txt\) is in .*JPEGImages"):
        opened(tmp_path)


def test_without_a_train_list_all_lists_are_one_part(tmp_path):
    official(tmp_path, "", val=["a"], test=["b"])
    assert {split: len(source) for split, source in opened(tmp_path)[0].items()} == {"all": 2}
