from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as coco_mask
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures_on_disk import SHARED, picture, write_coco, write_folder

from mae_vlm.data.collection import open_collection
from mae_vlm.data.problems import Problems
from mae_vlm.data.sources import coco
from mae_vlm.data.sources.base import Place
from mae_vlm.data.sources.parts.coco_masks import draw
from mae_vlm.data.sources.parts.json_stream import elements, value_at

BOX = [2, 3, 10, 5]
TRIANGLE = [2.0, 2.0, 12.5, 2.0, 2.0, 12.25]


def box(image: int = 1, category: int = 7, bbox: list | None = BOX, **others) -> dict:
    return {"image_id": image, "category_id": category, "bbox": bbox, **others}


def opened(path, annotations=(), classes=None, rule="drop"):
    place = Place(str(path), (path,), annotations=annotations, object_classes=classes, problems=Problems(rule))
    assert coco.FORMAT.claims(place)
    return coco.FORMAT.open(place), place.problems


def only(path, *args, **kwargs):
    parts, problems = opened(path, *args, **kwargs)
    return parts["all"], problems


def test_boxes_classes_and_crowds_are_those_of_the_file(tmp_path):
    write_coco(tmp_path / "instances.json", [{"id": 5}, {"id": 1}], [box(1), box(5, 3, [0, 0, 24, 20], iscrowd=1), box(1, 3)])
    source, problems = only(tmp_path)
    assert source.object_classes == ["cat", "dog"] and not problems  # sparse ids, in the order of the categories
    first, second = source[0], source[1]
    assert (first.id, second.id) == ("5.png", "1.png")
    assert second.image == picture(1)
    assert first.boxes.tolist() == [[0, 0, 24, 20]] and first.classes.tolist() == [1] and first.crowds.tolist() == [True]
    assert second.boxes.dtype == torch.float32 and second.boxes.tolist() == [[2, 3, 12, 8]] * 2
    assert second.classes.tolist() == [0, 1] and second.crowds is None and second.masks is None


def test_pictures_without_annotations_stay_with_no_boxes(tmp_path):
    write_coco(tmp_path / "instances.json", [{"id": 1}, {"id": 2}], [box(1, segmentation=[TRIANGLE])])
    sample = only(tmp_path)[0][1]
    assert sample.boxes.shape == (0, 4) and sample.classes.shape == (0,) and sample.masks.decode().shape == (0, 20, 24)


@pytest.mark.parametrize("layout", ["images", "."])
def test_pictures_are_found_beside_the_json_and_in_images(tmp_path, layout):
    file = write_coco(tmp_path / "boxes.json", [{"id": 1}], [box()], folder=layout)
    assert only(tmp_path)[0][0].image == picture(0) == only(file)[0][0].image


def test_the_official_layout_brings_its_own_split(tmp_path):
    for year, ids in (("train2017", (1, 2)), ("val2017", (3,))):
        for kind in ("instances", "person_keypoints"):
            write_coco(tmp_path / f"annotations/{kind}_{year}.json", [{"id": i} for i in ids], [box(ids[0])], folder=f"../{year}")
        captions = [{"image_id": i, "caption": f" a cat {i}\n"} for i in ids]
        write_coco(tmp_path / f"annotations/captions_{year}.json", [{"id": i} for i in ids], captions, folder=f"../{year}")
    found = open_collection(Place(str(tmp_path)))
    assert found.format == "coco" and {split: len(source) for split, source in found.parts.items()} == {"train": 2, "val": 1}
    assert found.parts["val"][0].captions == ("a cat 3",) and len(found.parts["val"][0].boxes) == 1


def test_a_part_that_was_not_downloaded_is_left_out(tmp_path):
    write_coco(tmp_path / "annotations/instances_train2017.json", [{"id": 1}], [box()], folder="../train2017")
    file = write_coco(tmp_path / "annotations/instances_val2017.json", [{"id": 9}], [], folder="../val2017")
    (tmp_path / "val2017" / "9.png").unlink()
    assert file.exists() and list(opened(tmp_path)[0]) == ["train"]


def test_val_classes_follow_train_and_others_are_told(tmp_path):
    write_coco(tmp_path / "train/a.json", [{"id": 1}], [box()], {7: "cat", 3: "dog"})
    write_coco(tmp_path / "val/a.json", [{"id": 1}], [box(category=1), box(category=2), box(category=3)], {1: "dog", 2: "fox", 3: "cat"})
    place = Place(str(tmp_path))
    val = open_collection(place).parts["val"]
    assert val.object_classes == ["cat", "dog"] and val[0].classes.tolist() == [1, 0]
    assert place.problems.counts == {"unknown class": 1} and "fox" in place.problems.first[0].text


def test_instances_win_over_detection_and_the_user_over_both(tmp_path):
    write_coco(tmp_path / "detection.json", [{"id": 1}], [box()])
    write_coco(tmp_path / "instances.json", [{"id": 1}], [box(), box()])
    write_coco(tmp_path / "keypoints.json", [{"id": 1}], [box(), box(), box()])
    assert len(only(tmp_path)[0][0].boxes) == 2
    assert len(only(tmp_path, ("detection.json",))[0][0].boxes) == 1
    assert len(only(tmp_path, ("keypoints.json",))[0][0].boxes) == 3


def test_two_files_that_may_be_meant_are_refused(tmp_path):
    for name in ("a.json", "b.json"):
        write_coco(tmp_path / name, [{"id": 1}], [box()])
    with pytest.raises(ValueError, match=r"several annotation files .*a\.json, b\.json.*data\.annotations"):
        opened(tmp_path)


@pytest.mark.parametrize(
    "text",
    ['{"images": [], "x": 1}', '[{"image": "a.png", "caption": "x"}]', '{"questions": [{"image_id": 1}]}', "", "no json"],
)
def test_other_json_files_are_not_claimed(tmp_path, text):
    write_folder(tmp_path, ["a.png"])
    (tmp_path / "a.json").write_text(text)
    assert not coco.FORMAT.claims(Place("", (tmp_path,)))


BAD = {
    "picture missing": ([{"id": 1}, {"id": 2, "file_name": "gone.png"}], [box(2)]),
    "picture id twice": ([{"id": 1}, {"id": 1, "file_name": "b.png"}], []),
    "picture without id or name": ([{"id": 1}, {"id": None, "file_name": "b.png"}], []),
    "annotation of an unknown picture": ([{"id": 1}], [box(99)]),
    "unknown class": ([{"id": 1}], [box(category=99)]),
    "box of zero size": ([{"id": 1}], [box(bbox=[5, 5, 0, 3])]),
    "box outside the picture": ([{"id": 1}], [box(bbox=[24, 5, 4, 3])]),
    "box is not four finite numbers": ([{"id": 1}], [box(bbox=[1, 2, 3])]),
    "mask of another size": ([{"id": 1}], [box(segmentation={"size": [24, 20], "counts": [0, 480]})]),
    "damaged mask": ([{"id": 1}], [box(segmentation={"size": [20, 24], "counts": [3, 4]})]),
    "invalid polygon": ([{"id": 1}], [box(segmentation=[[1, 1, 5, 5]])]),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_annotation_is_counted_and_left_out_while_the_picture_stays(tmp_path, kind):
    pictures, annotations = BAD[kind]
    file = write_coco(tmp_path / "instances.json", pictures, [*annotations, box(bbox=[1, 1, 4, 4])])
    (tmp_path / "images" / "gone.png").unlink(missing_ok=True)
    source, problems = only(tmp_path)
    assert problems.counts == {kind: 1} and problems.first[0].file == str(file)
    assert [source.name(i) for i in range(len(source))] == ["1.png"] and source[0].boxes.tolist() == [[1, 1, 5, 5]]


def test_the_same_picture_under_two_ids_is_one_with_the_objects_of_both(tmp_path):
    write_coco(tmp_path / "instances.json", [{"id": 1}, {"id": 2, "file_name": "1.png"}], [box(1), box(2)])
    source, problems = only(tmp_path)
    assert len(source) == 1 and len(source[0].boxes) == 2 and problems.counts == {"picture listed twice": 1}


def test_boxes_are_cut_at_the_border_and_counted_only_beyond_a_pixel(tmp_path):
    write_coco(tmp_path / "instances.json", [{"id": 1}], [box(bbox=[-0.9, 1, 10, 19.8]), box(bbox=[20, -5, 10, 10])])
    source, problems = only(tmp_path)
    assert torch.allclose(source[0].boxes, torch.tensor([[0, 1, 9.1, 20], [20, 0, 24, 5]]))
    assert problems.counts == {"box clipped": 1} and problems.first[0].id == "2"


def test_bad_annotations_can_be_fatal(tmp_path):
    write_coco(tmp_path / "instances.json", [{"id": 1}], [box(category=99)])
    problems = only(tmp_path, rule="fail")[1]
    with pytest.raises(ValueError, match=r"1 bad annotations .*category 99 is not listed"):
        problems.settle()


def test_no_picture_at_all_is_fatal(tmp_path):
    write_coco(tmp_path / "instances.json", [{"id": 1}], [])
    (tmp_path / "images" / "1.png").unlink()
    with pytest.raises(ValueError, match=r"no picture of .*instances\.json is found, as 1\.png; looked in"):
        opened(tmp_path)


def test_captions_join_the_objects_by_file_name(tmp_path):
    write_coco(tmp_path / "instances.json", [{"id": 1}, {"id": 2}], [box()])
    words = [{"image_id": 20, "caption": "deux œufs"}, {"image_id": 10, "caption": " "}, {"image_id": 10, "caption": "one"}]
    write_coco(tmp_path / "captions.json", [{"id": 20, "file_name": "2.png"}, {"id": 10, "file_name": "1.png"}], words)
    source, problems = only(tmp_path)
    assert [source[i].captions for i in range(2)] == [("one",), ("deux œufs",)] and problems.counts == {"empty caption": 1}
    alone = only(tmp_path, ("captions.json",))[0]
    assert [alone[i].captions for i in range(2)] == [("deux œufs",), ("one",)] and alone[0].boxes is None


def test_masks_of_every_form_are_coco_s_own_pixels(tmp_path):
    bits = np.zeros((20, 24), np.uint8)
    bits[3:9, 4:20] = 1
    packed = coco_mask.encode(np.asfortranarray(bits))
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[2], bits.T.ravel(), [2]])))).tolist()
    forms = [
        {"size": [20, 24], "counts": packed["counts"].decode()},
        {"size": [20, 24], "counts": runs},
        [TRIANGLE, [15, 15, 20, 15, 20, 19]],
    ]
    write_coco(tmp_path / "instances.json", [{"id": 1}], [box(segmentation=form, bbox=None) for form in forms])
    sample = only(tmp_path)[0][0]
    masks = sample.masks.decode()
    drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(forms[2], 20, 24)))
    assert masks.dtype == torch.bool and masks.shape == (3, 20, 24)
    assert all(np.array_equal(mask, truth) for mask, truth in zip(masks.numpy(), (bits, bits, drawn), strict=True))
    assert sample.boxes.tolist() == [[4, 3, 20, 9], [4, 3, 20, 9], [2, 2, 20, 19]]  # told by the masks


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-500, 4500), st.integers(-500, 3500)), min_size=3, max_size=12), st.integers(1, 40), st.integers(1, 50)
)
def test_a_polygon_and_its_run_lengths_are_one_mask(points, height, width):
    polygon = [value / 100 for point in points for value in point]
    truth = coco_mask.merge(coco_mask.frPyObjects([polygon], height, width))
    mask = draw([polygon], (height, width))
    assert np.array_equal(mask, coco_mask.decode(truth))
    assert np.array_equal(mask, draw({"size": [height, width], "counts": truth["counts"].decode()}, (height, width)))


def test_masks_are_not_touched_before_somebody_decodes_them(tmp_path):
    damaged = {"size": [20, 24], "counts": "XXXX"}
    write_coco(tmp_path / "instances.json", [{"id": 1}], [box(segmentation=damaged)])
    source, problems = only(tmp_path)
    sample = source[0]
    assert len(sample.boxes) == 1 and not problems
    with pytest.raises(ValueError, match=r"1\.png: the mask of annotation 1 is damaged"):
        sample.masks.decode()


def test_masks_of_another_size_than_the_picture_raise_when_decoded(tmp_path):
    write_coco(tmp_path / "instances.json", [{"id": 1, "height": 48, "width": 64}], [box(segmentation=[TRIANGLE])])
    with pytest.raises(ValueError, match=r"1\.png: masks are 64 x 48, picture 24 x 20"):
        only(tmp_path)[0][0].masks.decode()


def test_pictures_with_an_object_without_mask_have_no_masks(tmp_path):
    write_coco(
        tmp_path / "instances.json", [{"id": 1}, {"id": 2}], [box(1, segmentation=[TRIANGLE]), box(1), box(2, segmentation=[TRIANGLE])]
    )
    source = only(tmp_path)[0]
    assert source[0].masks is None and source[1].masks.decode().shape == (1, 20, 24)


def test_a_file_changed_after_it_was_read_is_named(tmp_path):
    file = write_coco(tmp_path / "instances.json", [{"id": 1}], [box(segmentation=[TRIANGLE])])
    source = only(tmp_path)[0]
    file.write_text(" " * 20 + file.read_text())
    with pytest.raises(ValueError, match=r"instances\.json has changed since it was read"):
        source[0].masks.decode()


def test_survives_pickling(tmp_path):
    write_coco(tmp_path / "instances.json", [{"id": 1}], [box(segmentation=[TRIANGLE])])
    source = only(tmp_path)[0]
    copy = pickle.loads(pickle.dumps(source))
    assert torch.equal(copy[0].masks.decode(), source[0].masks.decode()) and copy.names() == source.names()


@pytest.mark.parametrize("escaped", [True, False])
@pytest.mark.parametrize("indent", [None, 2])
def test_elements_are_found_again_by_their_bytes(tmp_path, escaped, indent):
    whole = {"info": {"a": [1]}, "images": [{"name": 'œuf ✓ \\ "'}, 3, []], "none": None, "empty": [], "more": [["é"], "x", 1.5e-3, True]}
    file = tmp_path / "a.json"
    file.write_text(json.dumps(whole, ensure_ascii=escaped, indent=indent), encoding="utf-8")
    found = list(elements(file))
    assert [(one.key, one.value) for one in found] == [(key, value) for key in ("images", "more") for value in whole[key]]
    assert value_at(file, [(one.start, one.end) for one in found]) == [one.value for one in found]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"images": [1, 2', '{"images": [1 2]}', '{"images" [1]}', '{"a": 1 "b": 2}'])
def test_broken_json_is_refused_by_name(tmp_path, text):
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"a\.json is "):
        list(elements(file))


REAL = {  # pictures, objects, crowds, captions, classes
    ("bccd/train", ()): (205, 2804, 0, 0, 3),
    ("bccd/test", ()): (72, 945, 0, 0, 3),
    ("coco-mini/train", ()): (80, 739, 8, 400, 80),
    ("coco-mini/val", ()): (79, 624, 5, 395, 80),
    ("coco128-panoptic/train", ()): (56, 518, 5, 0, 80),
    ("coco128-panoptic/val", ("detection.json",)): (14, 64, 0, 0, 80),
    ("dsb2018-nuclei/val", ()): (45, 1402, 0, 0, 1),
}


@pytest.mark.parametrize(("folder", "named"), REAL)
def test_real_collections_have_the_counts_of_their_readme(folder, named):
    if not (SHARED / folder).exists():
        pytest.skip(f"{folder} of the shared data sets is not here")
    source, problems = only(SHARED / folder, named)
    samples = [source[i] for i in range(len(source))]
    crowds = sum(int(sample.crowds.sum()) for sample in samples if sample.crowds is not None)
    found = (len(source), sum(len(s.boxes) for s in samples), crowds, sum(len(s.captions) for s in samples), len(source.object_classes))
    assert found == REAL[folder, named] and not problems
    for sample in samples[:3]:
        if sample.masks is not None:
            masks = sample.masks.decode()
            for mask, (left, top, right, bottom) in zip(masks, sample.boxes.tolist(), strict=True):
                rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
                told = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
                assert (told - torch.tensor([left, top, right, bottom])).abs().max() <= 4  # COCO's own differ by so much


@pytest.mark.parametrize("name", ["/etc/passwd", "../../secret.png", "a/../../secret.png"])
def test_pictures_outside_the_collection_are_dropped_and_counted(tmp_path, name):
    file = write_coco(tmp_path / "c" / "instances.json", [{"id": 1}], [box(1), box(2)])
    (tmp_path / "secret.png").write_bytes(picture(0))
    found = json.loads(file.read_text())
    found["images"].append({"id": 2, "file_name": name})
    file.write_text(json.dumps(found))
    source, problems = only(tmp_path / "c")
    assert len(source) == 1 and problems.counts == {"picture outside the collection": 1}


def test_only_regular_files_are_read(tmp_path):
    write_coco(tmp_path / "instances.json", [{"id": 1}], [box(1)])
    (tmp_path / "images" / "1.png").unlink()
    (tmp_path / "images" / "1.png").symlink_to("/dev/null")
    source, _ = only(tmp_path)
    with pytest.raises(ValueError, match=r"1\.png is no regular file"):
        source[0]


@pytest.mark.parametrize("size", [[20.5, 24.0], ["20", "24"], [20, -24], [1e400, 24]])
def test_run_lengths_of_an_odd_size_are_counted(tmp_path, size):
    mask = {"size": size, "counts": "abc"}
    write_coco(tmp_path / "instances.json", [{"id": 1}], [box(1, segmentation=mask), box(1, segmentation=7)])
    source, problems = only(tmp_path)
    assert len(source[0].boxes) == 0 and problems.counts == {"damaged mask": 2}


def test_lone_surrogates_in_captions_become_question_marks(tmp_path):
    write_coco(tmp_path / "captions.json", [{"id": 1}], [{"image_id": 1, "caption": "a \ud83d cat"}])
    assert only(tmp_path)[0][0].captions == ("a ? cat",)
