from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from pictures_on_disk import SHARED, write_folder, write_mask
from PIL import Image

from mae_vlm.data.collection import open_collection
from mae_vlm.data.problems import Problems
from mae_vlm.data.sources import mask_folder
from mae_vlm.data.sources.base import Place
from mae_vlm.data.sources.parts.mask_pixels import read_numbers

NUMBERS = np.tile(np.arange(24, dtype=np.uint8) % 4, (20, 1))
NUMBERS[0] = 255


def opened(root, annotations=(), classes=None):
    place = Place(str(root), (root,), annotations=annotations, object_classes=classes, problems=Problems())
    assert mask_folder.FORMAT.claims(place)
    return mask_folder.FORMAT.open(place)["all"], place.problems


def written(root, numbers=NUMBERS, mode=None, folder="masks", pictures="images"):
    write_folder(root / pictures, ["a.png", "b.png"])
    write_mask(root / folder / "a.png", numbers, mode)
    return root


PLACES = [("images", "masks"), ("JPEGImages", "SegmentationClass"), ("Images", "Labels"), ("", "gt")]


@pytest.mark.parametrize("mode", [None, "P"])
@pytest.mark.parametrize(("pictures", "folder"), PLACES)
def test_masks_go_with_the_pictures_of_their_stem(tmp_path, mode, pictures, folder):
    source, problems = opened(written(tmp_path, mode=mode, folder=folder, pictures=pictures))
    assert source.object_classes == ["0", "1", "2", "3"] and not problems and len(source) == 2
    semantic = source[0].semantic.decode()
    assert semantic.dtype == torch.uint8 and np.array_equal(semantic, NUMBERS) and source[1].semantic is None


def test_the_user_chooses_among_several_mask_folders(tmp_path):
    write_mask(written(tmp_path) / "other" / "a.png", NUMBERS % 2)
    assert opened(tmp_path, ("other",))[0].object_classes == ["0", "1"]


def test_binary_masks_of_0_and_255_are_two_classes(tmp_path):
    source, _ = opened(written(tmp_path, np.where(NUMBERS == 1, 255, 0).astype(np.uint8)))
    assert source.object_classes == ["0", "1"] and np.array_equal(source[0].semantic.decode(), NUMBERS == 1)


def test_16_bit_masks_of_many_classes_are_int16_with_minus_one(tmp_path):
    numbers = NUMBERS.astype(np.uint16) * 100
    numbers[0, :2] = 65535, 255
    source, _ = opened(written(tmp_path, numbers), classes=[str(k) for k in range(30_000)])
    semantic = source[0].semantic.decode()
    assert semantic.dtype == torch.int16 and semantic[0, :2].tolist() == [-1, 255] and semantic[1, :4].tolist() == [0, 100, 200, 300]


NAMED = ["sky", "car", "tree", "road"]
INDEXED = {"classes": [{"index": k, "name": name} for k, name in enumerate(NAMED)]}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("classes.txt", "sky\ncar\n\ntree\nroad\n"),
        ("classes.json", json.dumps(NAMED)),
        ("../classes.json", json.dumps({str(k): name for k, name in enumerate(NAMED)})),
        ("../semantic_classes.json", json.dumps(INDEXED)),
    ],
)
def test_names_come_from_a_file_in_the_folder_or_above(tmp_path, file, text):
    written(tmp_path / "train")
    (tmp_path / "train" / file).write_text(text)
    assert opened(tmp_path / "train")[0].object_classes == NAMED


def test_a_file_of_names_that_tells_none_is_refused(tmp_path):
    (written(tmp_path) / "classes.json").write_text("3")
    with pytest.raises(ValueError, match=r"classes\.json does not tell the names of classes"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("numbers", "mode", "message"),
    [
        (NUMBERS[:10], None, r"a\.png: mask is 24 x 10, picture 24 x 20"),
        (NUMBERS + np.uint8(9), None, r"a\.png: mask .*a\.png holds class 12 of 4.*classes\.txt"),
        (NUMBERS, "RGB", r"a\.png: mask .*a\.png is a picture of mode RGB"),
    ],
)
def test_what_only_the_mask_shows_is_named_when_it_is_decoded(tmp_path, numbers, mode, message):
    written(tmp_path)
    source, problems = opened(tmp_path)
    write_mask(tmp_path / "masks" / "a.png", numbers, mode)
    sample = source[0]
    assert not problems
    with pytest.raises(ValueError, match=message):
        sample.semantic.decode()


def test_a_turned_photo_and_its_mask_agree_as_they_are_shown(tmp_path):
    written(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter: stored 20 wide and 24 high, shown 24 wide and 20 high
    Image.new("RGB", (20, 24)).save(tmp_path / "images" / "a.jpg", exif=exif)
    (tmp_path / "images" / "a.png").unlink()
    assert opened(tmp_path)[0][0].semantic.decode().shape == (20, 24)


def test_masks_without_a_picture_are_counted(tmp_path):
    write_mask(written(tmp_path) / "masks" / "c.png", NUMBERS)
    source, problems = opened(tmp_path)
    assert problems.counts == {"mask without a picture": 1} and problems.first[0].id == "c" and len(source) == 2


def test_folders_of_both_are_the_split(tmp_path):
    for part, count in (("training", 3), ("validation", 2)):
        write_folder(tmp_path / "images" / part, [f"{part}{i}.png" for i in range(count)])
        for i in range(count):
            write_mask(tmp_path / "annotations" / part / f"{part}{i}.png", NUMBERS)
    found = open_collection(Place(str(tmp_path)))
    assert found.format == "masks" and {split: len(source) for split, source in found.parts.items()} == {"train": 3, "val": 2}
    assert np.array_equal(found.parts["val"][1].semantic.decode(), NUMBERS)


def test_cityscapes_names_are_paired_and_train_ids_win(tmp_path):
    write_folder(tmp_path / "leftImg8bit", ["train/x/x_1_leftImg8bit.png", "val/y/y_1_leftImg8bit.png"])
    for place in ("train/x/x_1", "val/y/y_1"):
        write_mask(tmp_path / "gtFine" / f"{place}_gtFine_labelIds.png", NUMBERS + np.uint8(20))
        write_mask(tmp_path / "gtFine" / f"{place}_gtFine_instanceIds.png", NUMBERS.astype(np.uint16) * 1000)
        write_mask(tmp_path / "gtFine" / f"{place}_gtFine_labelTrainIds.png", NUMBERS)
    parts = open_collection(Place(str(tmp_path))).parts
    assert list(parts) == ["train", "val"] and parts["val"].object_classes == ["0", "1", "2", "3"]
    assert np.array_equal(parts["val"][0].semantic.decode(), NUMBERS)


@pytest.mark.parametrize("names", [["masks/a.png", "faces/b.png"], ["images/a.png", "labels/b.png"], ["images/a.png", "masks/a.txt"]])
def test_folders_without_pairs_are_not_claimed(tmp_path, names):
    assert not mask_folder.FORMAT.claims(Place("", (write_folder(tmp_path, names),)))


def test_survives_pickling(tmp_path):
    source, _ = opened(written(tmp_path))
    assert torch.equal(pickle.loads(pickle.dumps(source))[0].semantic.decode(), source[0].semantic.decode())


def test_real_masks_have_the_counts_of_their_readme():
    if not (SHARED / "camvid").exists():
        pytest.skip("camvid of the shared data sets is not here")
    found = open_collection(Place(str(SHARED / "camvid")))
    assert found.format == "masks" and {split: len(source) for split, source in found.parts.items()} == {"train": 245, "val": 101}
    for source in found.parts.values():
        semantic = source[50].semantic.decode()
        assert len(source.object_classes) == 12 and semantic.shape == (360, 480) and semantic.max() <= 11


def test_a_mask_that_is_postscript_is_refused(tmp_path):
    Image.new("L", (24, 20)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a: mask .*cannot be read \(UnidentifiedImageError"):
        read_numbers(tmp_path / "a.png", "a")
