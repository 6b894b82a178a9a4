from __future__ import annotations

import os
import pickle

import pytest
from pictures_on_disk import picture, write_folder

from mae_vlm.data.sources.image_folder import ImageFolder
from mae_vlm.data.sources.parts import folder_index


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MAE_VLM_CACHE", str(folder))
    return folder


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


def test_large_files_are_given_as_paths(tmp_path):
    source = ImageFolder(write_folder(tmp_path, ["a.TIF", "b.tiff", "c.png"]))
    assert [source[i].image for i in range(3)] == [tmp_path / "a.TIF", tmp_path / "b.tiff", picture(2)]


# --- the list that is kept -----------------------------------------------------------------------------------------------


def kept(tmp_path, monkeypatch, names):
    """A folder whose list was kept by opening it, and how often it was listed since."""
    monkeypatch.setattr(folder_index, "CACHED_FROM", 1)
    write_folder(tmp_path, names)
    settle(tmp_path)
    ImageFolder(tmp_path)
    listed = []
    build = folder_index._build
    monkeypatch.setattr(folder_index, "_build", lambda *place: listed.append(1) or build(*place))
    return listed


def settle(root):
    for folder, _, _ in os.walk(root):
        os.utime(folder, (1_000_000, 1_000_000))


def told(root):
    source = ImageFolder(root)
    return source.classes, [(source[i].id, source[i].label) for i in range(len(source))], source.names().to_pylist()


def test_a_kept_list_gives_the_same_source(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_index, "CACHED_FROM", 1000)
    names = ["cat/1.png", "dog/a/2.png", "dog/3.png"]
    write_folder(tmp_path, names)
    fresh = told(tmp_path)
    listed = kept(tmp_path, monkeypatch, names)
    assert told(tmp_path) == fresh and not listed
    assert pickle.loads(pickle.dumps(ImageFolder(tmp_path)))[1].id == "dog/3.png"


@pytest.mark.parametrize(
    "change", [["cat/9.png"], ["fox/9.png"], ["dog/a/b/9.png"], ["images/9.png"]], ids=["file", "class", "deep", "images"]
)
def test_a_folder_that_gained_something_is_listed_again(tmp_path, monkeypatch, change):
    listed = kept(tmp_path, monkeypatch, ["cat/1.png", "dog/a/2.png"])
    write_folder(tmp_path, change)
    assert any(name.endswith(b"9.png") for name in told(tmp_path)[2]) and listed


def test_a_folder_that_lost_something_is_listed_again(tmp_path, monkeypatch):
    listed = kept(tmp_path, monkeypatch, ["images/a/1.png", "images/b/2.png", "masks/1.png"])
    assert told(tmp_path)[2] == [b"a/1.png", b"b/2.png"] and not listed
    (tmp_path / "images" / "b" / "2.png").unlink()
    (tmp_path / "images" / "b").rmdir()
    assert told(tmp_path)[2] == [b"a/1.png"] and listed


def test_a_folder_changed_just_now_is_not_kept(tmp_path, monkeypatch, own_cache):
    monkeypatch.setattr(folder_index, "CACHED_FROM", 1)
    ImageFolder(write_folder(tmp_path, ["a.png"]))
    assert not list(own_cache.iterdir())


def test_small_folders_leave_nothing_in_the_cache(tmp_path, own_cache):
    write_folder(tmp_path, ["a.png"])
    settle(tmp_path)
    ImageFolder(tmp_path)
    assert not list(own_cache.iterdir())


def test_a_folder_that_may_not_be_read_is_passed_over_with_one_warning(tmp_path, monkeypatch):
    write_folder(tmp_path, ["a.png", "lost+found/b.png", "z/c.png"])
    scandir, shut = os.scandir, str(tmp_path / "lost+found")

    def guarded(folder):
        if str(folder) == shut:
            raise PermissionError(13, "Permission denied", shut)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.warns(RuntimeWarning, match=r"lost\+found may not be read") as told:
        found = [[source.name(i) for i in range(len(source))] for source in (ImageFolder(tmp_path), ImageFolder(tmp_path))]
    assert found == [["a.png", "z/c.png"]] * 2 and len(told) == 1
