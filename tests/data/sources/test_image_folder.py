from __future__ import annotations

import pickle

import pytest
from pictures_on_disk import picture, write_folder

from mae_vlm.data.sources.image_folder import ImageFolder


def test_first_level_folders_are_the_classes(tmp_path):
    source = ImageFolder(write_folder(tmp_path, ["dog/1.png", "cat/a/2.PNG", "cat/1.JPeG"]))
    assert source.classes == ["cat", "dog"]
    assert [(source[i].id, source[i].label) for i in range(3)] == [("cat/1.JPeG", 0), ("cat/a/2.PNG", 0), ("dog/1.png", 1)]
    assert source[2].image == picture(0)


@pytest.mark.parametrize("names", [["b.png", "a.png"], ["x/b.png", "a.png"], ["only/a.png", "only/b.png"]])
def test_no_classes_where_folders_do_not_sort_all_pictures(tmp_path, names):
    source = ImageFolder(write_folder(tmp_path, names))
    assert source.classes is None and source[0].label is None and len(source) == 2


def test_hidden_files_and_other_files_are_skipped(tmp_path):
    write_folder(tmp_path, ["a.png", ".b.png", ".cache/c.png", "notes.txt"])
    assert [source.name(0) for source in [ImageFolder(tmp_path)] if len(source) == 1] == ["a.png"]


def test_a_loop_of_links_ends_and_repeats_nothing(tmp_path):
    write_folder(tmp_path, ["x/a.png"])
    (tmp_path / "x" / "up").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "x")
    (tmp_path / "broken.png").symlink_to(tmp_path / "missing.png")
    assert len(ImageFolder(tmp_path)) == 1


def test_one_file_is_a_collection_of_one(tmp_path):
    source = ImageFolder(write_folder(tmp_path, ["a.png", "b.png"]) / "b.png")
    assert len(source) == 1 and source[0].image == picture(1)


def test_only_the_images_folder_is_read_beside_masks(tmp_path):
    assert len(ImageFolder(write_folder(tmp_path, ["images/a.png", "masks/a.png"]))) == 1


def test_labels_follow_the_classes_given_and_others_have_none(tmp_path):
    source = ImageFolder(write_folder(tmp_path, ["dog/1.png", "fox/1.png"]), ["cat", "dog"])
    assert [source[i].label for i in range(2)] == [1, None]


def test_survives_pickling(tmp_path):
    source = ImageFolder(write_folder(tmp_path, ["a.png"]))
    assert pickle.loads(pickle.dumps(source))[0].image == source[0].image


def test_a_folder_without_pictures_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"no pictures in .*looked for files ending in \.jpg"):
        ImageFolder(tmp_path)
