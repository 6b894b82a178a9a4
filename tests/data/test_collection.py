from __future__ import annotations

import pytest
from pictures_on_disk import SHARED, picture, write_folder, write_parquet, write_tar

from mae_vlm.data.collection import open_collection
from mae_vlm.data.sources import hub
from mae_vlm.data.sources.base import Place
from mae_vlm.data.sources.image_folder import ImageFolder


def lengths(path, **options):
    found = open_collection(Place(str(path)), **options)
    return found.format, {name: len(part) for name, part in found.parts.items()}


def test_format_is_told_from_the_content(tmp_path):
    write_folder(tmp_path / "folder", ["a.png", "b/c.png"])
    write_parquet(tmp_path / "table" / "x.parquet", 3)
    write_tar(tmp_path / "shards" / "deep" / "x.tar", {"a.png": picture(0)})
    assert lengths(tmp_path / "folder") == ("folder", {"all": 2})
    assert lengths(tmp_path / "table") == ("parquet", {"all": 3})
    assert lengths(tmp_path / "shards") == ("tar", {"all": 1})
    assert lengths(tmp_path / "table" / "x.parquet") == ("parquet", {"all": 3})
    assert lengths(tmp_path / "folder" / "a.png") == ("folder", {"all": 1})


def test_a_stray_picture_does_not_make_a_table_a_folder(tmp_path):
    write_parquet(tmp_path / "x.parquet", 30)
    write_folder(tmp_path, ["readme.png"])
    assert lengths(tmp_path) == ("parquet", {"all": 30})
    assert lengths(tmp_path, format="folder") == ("folder", {"all": 1})


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val", "dev"])
def test_folders_named_as_parts_are_the_split(tmp_path, val):
    write_folder(tmp_path, ["train/a.png", "train/b.png", f"{val}/c.png", "test/d.png", "extra/e.png"])
    assert lengths(tmp_path) == ("folder", {"train": 2, "val": 1, "test": 1})


@pytest.mark.parametrize("inner", ["", "data"])
def test_files_named_as_parts_are_the_split(tmp_path, inner):
    for number in range(2):
        write_parquet(tmp_path / inner / f"train-0000{number}-of-00002.parquet", 4)
    write_parquet(tmp_path / inner / "validation-00000-of-00001.parquet", 3)
    assert lengths(tmp_path) == ("parquet", {"train": 8, "val": 3})


def test_tar_shards_of_several_parts(tmp_path):
    write_tar(tmp_path / "train-000000.tar", {"a.png": picture(0)})
    write_tar(tmp_path / "train-000001.tar", {"a.png": picture(0)})
    write_tar(tmp_path / "test-000000.tar", {"a.png": picture(0)})
    assert lengths(tmp_path) == ("tar", {"train": 2, "test": 1})


def test_class_folders_are_no_split(tmp_path):
    write_folder(tmp_path, ["cat/a.png", "dog/b.png", "test/c.png"])
    found = open_collection(Place(str(tmp_path)))
    assert found.parts["all"].classes == ["cat", "dog", "test"]


def test_a_lone_train_folder_is_the_collection(tmp_path):
    write_folder(tmp_path, ["train/cat/a.png", "train/dog/b.png"])
    assert open_collection(Place(str(tmp_path))).parts["all"].classes == ["cat", "dog"]


def test_labels_of_all_parts_follow_the_training_classes(tmp_path):
    write_folder(tmp_path, ["train/cat/a.png", "train/dog/b.png", "val/dog/c.png"])
    parts = open_collection(Place(str(tmp_path))).parts
    assert parts["val"][0].label == 1 and parts["val"].classes == ["cat", "dog"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", r"data\.path .*missing does not exist; give a folder, a list .*, a \.parquet or \.tar file, or a picture$"),
        ("empty", r"data\.path .*empty is an empty folder; give a folder of pictures"),
        ("words", r"data\.path .*words holds no picture; give a folder of pictures"),
    ],
)
def test_a_path_without_pictures_is_refused_in_one_line(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "a.txt").write_text("hello")
    with pytest.raises(ValueError, match=message) as caught:
        open_collection(Place(str(tmp_path / name)))
    assert "\n" not in str(caught.value)


def test_a_path_like_a_hub_name_gets_the_hint_and_does_not_go_to_the_network():
    with pytest.raises(ValueError, match=r"uoft-cs/cifar10 does not exist.*write hf://datasets/uoft-cs/cifar10$"):
        open_collection(Place("uoft-cs/cifar10"))


def test_an_unknown_format_and_a_format_that_is_not_there_are_refused(tmp_path):
    write_folder(tmp_path, ["a.png"])
    with pytest.raises(ValueError, match=r"data\.format zip is unknown; use one of auto, scenes, generated, hub, .*, parquet, tar"):
        open_collection(Place(str(tmp_path)), "zip")
    with pytest.raises(ValueError, match=r"holds no \.tar file; .*set data\.format auto"):
        open_collection(Place(str(tmp_path)), "tar")


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data sets are not beside this checkout")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar10", ("parquet", {"train": 18_000, "val": 3_000})),
        ("tiny-imagenet-20", ("parquet", {"train": 6_400, "val": 1_000})),
        ("easy-vqa", ("parquet", {"train": 4_000, "val": 500})),
        ("imagenet-sample", ("tar", {"train": 400, "val": 50})),
        ("flickr8k-sub", ("tar", {"train": 500, "val": 120})),
        ("bccd", ("coco", {"train": 205, "val": 87, "test": 72})),
        ("camvid", ("masks", {"train": 245, "val": 101})),
        ("coco-mini", ("coco", {"train": 80, "val": 79})),
        ("coco128-panoptic", ("coco", {"train": 56, "val": 14})),
        ("daquar", ("qa", {"train": 660, "val": 134})),  # one of its 135 has no question
        ("dsb2018-nuclei", ("coco", {"train": 160, "val": 45})),
    ],
)
def test_shared_sets_have_the_counts_of_their_readme(name, expected):
    assert lengths(SHARED / name) == expected


def test_hub_splits_without_train_are_one_part(tmp_path, monkeypatch):
    splits = {
        name: ImageFolder(write_folder(tmp_path / name, names)) for name, names in (("test", ["a.png"]), ("extra", ["b.png", "c.png"]))
    }
    monkeypatch.setattr(hub, "open_hub", lambda path, columns: splits)
    assert lengths("hf://datasets/org/name") == ("hub", {"all": 3})
