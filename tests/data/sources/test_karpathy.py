from __future__ import annotations

import json

import pytest
from pictures_on_disk import picture, write_folder

from mae_vlm.data.sources import karpathy
from mae_vlm.data.sources.base import Place


def entry(name, split, *said, folder=None):
    found = {"filename": name, "split": split, "imgid": 1, "sentences": [{"raw": text, "tokens": text.split()} for text in said]}
    return {**found, "filepath": folder} if folder else found


def place(root, *entries, name="dataset_coco.json"):
    root.mkdir(exist_ok=True)
    (root / name).write_text(json.dumps({"images": list(entries), "dataset": "coco"}))
    return Place(str(root), (root,))


def opened(where):
    assert karpathy.FORMAT.claims(where)
    return karpathy.FORMAT.open(where)


def test_coco_is_split_and_restval_trains(tmp_path):
    write_folder(tmp_path, ["train2014/a.png", "val2014/b.png", "val2014/c.png", "val2014/d.png"])
    entries = [
        entry("a.png", "train", "one", "two", folder="train2014"),
        entry("b.png", "restval", "three", folder="val2014"),
        entry("c.png", "val", "four", folder="val2014"),
        entry("d.png", "test", "five", folder="val2014"),
    ]
    parts = opened(place(tmp_path, *entries))
    assert {name: [(s.id, s.captions) for s in map(part.__getitem__, range(len(part)))] for name, part in parts.items()} == {
        "train": [("train2014/a.png", ("one", "two")), ("val2014/b.png", ("three",))],
        "val": [("val2014/c.png", ("four",))],
        "test": [("val2014/d.png", ("five",))],
    }


@pytest.mark.parametrize("folder", ["", "images", "flickr30k-images"])
def test_flickr_is_found_in_the_folder_beside(tmp_path, folder):
    write_folder(tmp_path / folder, ["a.png", "b.png"])
    parts = opened(place(tmp_path, entry("a.png", "train", "one"), entry("b.png", "val", "two"), name="dataset_flickr30k.json"))
    assert parts["train"][0].image == picture(0) and parts["val"][0].captions == ("two",)


def test_what_cannot_be_used_is_counted(tmp_path):
    write_folder(tmp_path, ["a.png", "b.png"])
    entries = [
        entry("a.png", "train", "one", " "),
        entry("z.png", "train", "x"),
        entry("b.png", "unused", "y"),
        entry("a.png", "train", "two"),
    ]
    where = place(tmp_path, *entries, {"split": "train", "sentences": []})
    parts = opened(where)
    assert [parts["train"][0].captions] == [("one",)] and len(parts["train"]) == 1
    assert where.problems.counts == {
        "empty caption": 1,
        "missing picture": 1,
        "unknown split": 1,
        "picture listed again": 1,
        "entry without a picture": 1,
    }


def test_other_json_is_not_claimed(tmp_path):
    write_folder(tmp_path, ["a.png"])
    (tmp_path / "instances.json").write_text(json.dumps({"images": [{"file_name": "a.png"}], "annotations": []}))
    (tmp_path / "list.json").write_text("[]")
    where = Place(str(tmp_path), (tmp_path,))
    assert not karpathy.FORMAT.claims(where)
    with pytest.raises(ValueError, match=r"must hold one file as dataset_coco\.json, has none; name it by data\.annotations$"):
        karpathy.FORMAT.open(where)


def test_a_file_whose_pictures_are_elsewhere_is_not_claimed_and_refused_when_asked_for(tmp_path):
    where = place(tmp_path, entry("a.png", "train", "one"))
    assert not karpathy.FORMAT.claims(where)
    with pytest.raises(ValueError, match=r"none of the pictures that .*dataset_coco\.json names is there \(as a\.png\)"):
        karpathy.FORMAT.open(where)


def test_a_file_that_is_cut_short_is_refused(tmp_path):
    where = place(tmp_path, *(entry("a.png", "train", "one") for _ in range(3)))
    file = tmp_path / "dataset_coco.json"
    file.write_text(file.read_text()[:-40])
    with pytest.raises(ValueError, match=r"dataset_coco\.json is not a JSON object, or is cut short"):
        karpathy.read_karpathy(file, where)


def test_odd_entries_are_counted(tmp_path):
    write_folder(tmp_path / "c", ["a.png", "b.png"])
    write_folder(tmp_path, ["secret.png"])
    null = {**entry("a.png", "train"), "sentences": None}
    where = place(
        tmp_path / "c", null, entry("b.png", "train", "a \ud83d cat"), entry("../secret.png", "train", "x"), entry("/etc/passwd", "val")
    )
    parts = opened(where)
    samples = [part[i] for part in parts.values() for i in range(len(part))]
    assert [(one.id, one.captions) for one in samples] == [("a.png", ()), ("b.png", ("a ? cat",))]
    assert where.problems.counts == {"sentences are no list": 1, "picture outside the collection": 2}
