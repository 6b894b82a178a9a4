from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from pictures_on_disk import SHARED, picture, write_folder

from mae_vlm.data.problems import Problems
from mae_vlm.data.sources import picture_list
from mae_vlm.data.sources.base import Columns, Place

NAMES = ["a.png", "b.png", "c.png"]


def place(root, **options):
    return Place(str(root), (root,), **options)


def opened(root, **options):
    where = place(root, **options)
    return picture_list.FORMAT.open(where), where.problems.counts


def labels(source):
    return {source.name(i): source[i].label for i in range(len(source))}


def write(file, text):
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


TABLES = {
    "l.csv": "image,label\na.png,dog\nb.png,cat\n",
    "semicolons.csv": "Image;Label\r\na.png;dog\r\nb.png;cat\r\n",
    "l.tsv": "size\timg\tclass\n3\ta.png\tdog\n4\tb.png\tcat\n",
    "l.jsonl": '{"path": "a.png", "label": "dog"}\n{"path": "b.png", "label": "cat", "more": 1}\n',
    "l.json": '[\n {"file_name": "a.png",\n  "label": "dog"},\n {"file_name": "b.png", "label": "cat"}\n]',
    "other_names.csv": "what,label\na.png,dog\nb.png,cat\n",
}


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", TABLES)
def test_every_form_gives_the_same_samples(tmp_path, name, bom):
    write_folder(tmp_path, NAMES)
    write(tmp_path / name, bom + TABLES[name].encode())
    assert picture_list.FORMAT.claims(place(tmp_path))
    parts, problems = opened(tmp_path)
    source = parts["all"]
    assert labels(source) == {"a.png": 1, "b.png": 0} and source.classes == ["cat", "dog"] and not problems
    assert source[0].image == picture(0) and source[1].id == "b.png" and source.names().to_pylist() == [b"a.png", b"b.png"]


def test_a_table_without_header_is_read_by_the_numbers_of_its_columns(tmp_path):
    write_folder(tmp_path, NAMES)
    file = write(tmp_path / "l.csv", "3,a.png,dog\n4,b.png,cat\n")
    parts, _ = opened(file, columns=Columns(label="3"))
    assert labels(parts["all"]) == {"a.png": 1, "b.png": 0}


@pytest.mark.parametrize("folder", ["", "images", "l", "photos"])
def test_pictures_are_found_beside_the_list_or_in_a_folder_there(tmp_path, folder):
    write_folder(tmp_path / folder, NAMES)
    (tmp_path / "empty").mkdir()
    write(tmp_path / "l.csv", "image,label\na.png,1\n")
    assert opened(tmp_path)[0]["all"][0].image == picture(0)


def test_absolute_paths_are_read_as_they_are(tmp_path):
    write_folder(tmp_path / "far", NAMES)
    (tmp_path / "near").mkdir()
    write(tmp_path / "near" / "l.csv", f"image,label\n{tmp_path}/far/b.png,1\n")
    assert opened(tmp_path / "near")[0]["all"][0].image == picture(1)


def test_where_two_folders_could_be_meant_nothing_is_guessed(tmp_path):
    for folder in ("left", "right"):
        write_folder(tmp_path / folder, NAMES)
    write(tmp_path / "l.csv", "image,label\na.png,1\n")
    assert not picture_list.FORMAT.claims(place(tmp_path))


def test_names_that_look_like_numbers_or_dates_stay_as_they_are_written(tmp_path):
    write_folder(tmp_path, ["007.png"])
    write(tmp_path / "l.csv", "image,label\n007.png,010\n")
    assert opened(tmp_path)[0]["all"].classes == ["010"]
    (tmp_path / "l.csv").unlink()
    write(tmp_path / "l.jsonl", '{"image": "007.png", "label": "2020-01-01"}\n')
    assert opened(tmp_path)[0]["all"].classes == ["2020-01-01"]


def test_whole_numbers_are_classes_in_their_order_and_minus_one_is_none(tmp_path):
    write_folder(tmp_path, [*NAMES, "d.png"])
    write(
        tmp_path / "l.jsonl",
        "".join(json.dumps({"image": f"{n}.png", "label": y}) + "\n" for n, y in zip("abcd", (10, 9, -1, 100), strict=True)),
    )
    source = opened(tmp_path)[0]["all"]
    assert source.classes == ["9", "10", "100"] and labels(source) == {"a.png": 1, "b.png": 0, "c.png": None, "d.png": 2}


def test_fractions_are_no_classes_unless_they_are_named(tmp_path):
    write_folder(tmp_path, NAMES)
    write(tmp_path / "l.csv", "image,target\na.png,0.5\nb.png,-1.25\n")
    assert opened(tmp_path)[0]["all"].classes is None
    assert opened(tmp_path, columns=Columns(label="target", label_kind="class"))[0]["all"].classes == ["-1.25", "0.5"]
    source = opened(tmp_path, columns=Columns(label="target"))[0]["all"]
    assert source.classes is None and source.numbers == 1 and [source[i].values.tolist() for i in range(2)] == [[0.5], [-1.25]]


def test_given_classes_keep_their_order_and_other_labels_are_problems(tmp_path):
    write_folder(tmp_path, NAMES)
    write(tmp_path / "l.csv", "image,label\na.png,dog\nb.png,cat\nc.png,fox\n")
    parts, problems = opened(tmp_path, classes=["dog", "cat"])
    assert labels(parts["all"]) == {"a.png": 0, "b.png": 1, "c.png": None} and problems == {"unknown label": 1}


def test_missing_pictures_are_left_out_and_counted(tmp_path):
    write_folder(tmp_path, ["deep/a.png", "deep/c.png"])
    write(tmp_path / "l.csv", "image,label\ndeep/a.png,x\ndeep/b.png,y\ngone/c.png,y\ndeep/c.png,z\n")
    parts, problems = opened(tmp_path)
    assert labels(parts["all"]) == {"deep/a.png": 0, "deep/c.png": 2} and problems == {"missing picture": 2}


def test_a_picture_listed_twice_is_one_sample_and_a_problem(tmp_path):
    write_folder(tmp_path, NAMES)
    write(tmp_path / "l.csv", "image,label\na.png,x\nb.png,x\na.png,y\n,x\n")
    parts, problems = opened(tmp_path)
    assert labels(parts["all"]) == {"a.png": 0, "b.png": 0}
    assert problems == {"picture listed again": 1, "picture with two labels": 1, "row without a picture": 1}


def test_rows_of_one_picture_are_one_sample_with_several_captions(tmp_path):
    write_folder(tmp_path, NAMES)
    write(tmp_path / "l.csv", 'image,caption,label\na.png,"one, two",x\nb.png,a dog,y\na.png,"three\nlines",x\n')
    parts, problems = opened(tmp_path)
    source = parts["all"]
    assert source[0].captions == ("one, two", "three\nlines") and source[1].captions == ("a dog",) and not problems
    assert labels(source) == {"a.png": 0, "b.png": 1}


@pytest.mark.parametrize("option", [None, "set"])
def test_a_column_tells_the_parts(tmp_path, option):
    write_folder(tmp_path, [*NAMES, "d.png", "e.png"])
    write(tmp_path / "l.csv", "image,label,set\na.png,x,train\nb.png,y,validation\nc.png,y,test\nd.png,z,Train\ne.png,z,other\n")
    parts, problems = opened(tmp_path, columns=Columns(split=option))
    assert {name: list(labels(part)) for name, part in parts.items()} == {"train": ["a.png", "d.png"], "val": ["b.png"], "test": ["c.png"]}
    assert parts["val"][0].label == 1 and parts["val"].classes == ["x", "y", "z"] and problems == {"unknown split": 1}


def test_words_about_a_training_picture_from_another_part_are_left_out(tmp_path):
    write_folder(tmp_path, NAMES)
    write(tmp_path / "l.csv", "image,caption,split\na.png,one,train\na.png,two,val\nb.png,three,val\n")
    parts, problems = opened(tmp_path)
    assert parts["train"][0].captions == ("one",) and len(parts["val"]) == 1 and problems == {"picture in two parts": 1}


def test_a_list_for_each_part_shares_the_training_classes(tmp_path):
    write_folder(tmp_path, NAMES)
    write(tmp_path / "train.csv", "image,label\na.png,dog\nb.png,cat\n")
    write(tmp_path / "val.csv", "image,label\nc.png,dog\n")
    parts, _ = opened(tmp_path)
    assert len(parts["train"]) == 2 and labels(parts["val"]) == {"c.png": 1}


def test_metadata_of_an_image_folder_splits_by_its_first_folders(tmp_path):
    write_folder(tmp_path, ["train/a.png", "train/b.png", "test/c.png"])
    write(tmp_path / "metadata.jsonl", "".join(json.dumps({"file_name": n, "label": "x"}) + "\n" for n in ("train/a.png", "test/c.png")))
    assert {name: len(part) for name, part in opened(tmp_path)[0].items()} == {"train": 1, "test": 1}


def test_several_lists_are_refused_until_one_is_named(tmp_path):
    write_folder(tmp_path, NAMES)
    for name in ("one.csv", "two.csv"):
        write(tmp_path / name, "image,label\na.png,x\n")
    with pytest.raises(ValueError, match=r"holds several lists \(one\.csv, two\.csv\); choose one by data\.annotations"):
        opened(tmp_path)
    assert len(opened(tmp_path, annotations=("two.csv",))[0]["all"]) == 1


@pytest.mark.parametrize(
    "text",
    ["image,width\na.png,3\n", "image,label\nz.png,x\n", "name,label\na,x\n", "", "not a table at all", "\x00\xff\n"],
)
def test_tables_that_tell_nothing_of_pictures_that_are_there_are_not_claimed(tmp_path, text):
    write_folder(tmp_path, NAMES)
    write(tmp_path / "l.csv", text)
    assert not picture_list.FORMAT.claims(place(tmp_path))


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("l.csv", "image,label\na.png,x\n".encode("utf-16"), {}, r"l\.csv is not UTF-8 text \(it is UTF-16\); save it again as UTF-8$"),
        ("l.csv", b"image,label\na.png,\xe9\n", {}, r"l\.csv is not UTF-8 text \(byte 18 is none\); save it again as UTF-8$"),
        ("l.csv", "image,label\na.png,x,y\n", {}, r"l\.csv: CSV parse error: .*Expected 2 columns, got 3: a\.png,x,y; correct the row"),
        ("l.csv", "image,image\na.png,x\n", {}, r"l\.csv names the column 'image' twice; rename one$"),
        ("l.csv", "image,label\nz.png,x\n", {}, r"none of the pictures that .*l\.csv names is there \(as z\.png\): looked in"),
        ("l.csv", "image,label\na.png,x\n", {"label": "y"}, r"data\.label_column y is not a column of .*; its columns are image, label$"),
        (
            "l.csv",
            "image,label\na.png,x\n",
            {"caption": "y"},
            r"data\.caption_column y is not a column of .*; its columns are image, label$",
        ),
        ("l.csv", "image,split\na.png,val\n", {"split": "split"}, r"l\.csv has no picture of the part train; correct its column of splits"),
        ("l.csv", "", {}, r"l\.csv is empty; write it again$"),
        ("l.jsonl", '{"image": "a.png"}\n{"image": ', {}, r"l\.jsonl: JSON parse error: Invalid value\. in row 1; correct the row"),
        ("l.jsonl", '{"image": "a.png", "label": {"a": 1}}\n', {"label": "label"}, r"label of .* is struct<a: int64>; labels are names or"),
        (
            "l.jsonl",
            '{"image": "a.png", "y": 1.5}\n',
            {"label": "y", "label_kind": "class"},
            r"y of .* holds fractions, which are no classes; set data\.label_kind number",
        ),
        (
            "l.csv",
            "image,y\na.png,0.5|x\n",
            {"label": "y", "label_kind": "number"},
            r"y of .*l\.csv holds 'x', which is no number; correct it",
        ),
        ("l.csv", 'image,label\na.png,"[3, 4"\n', {"label": "label", "label_kind": "classes"}, r"holds '\[3, 4', which is no JSON list"),
        ("l.json", '[{"image": "a.png"}, {"ima', {}, r"l\.json is not JSON, or is cut short"),
    ],
)
def test_mistakes_are_one_line_that_says_what_to_do(tmp_path, name, text, options, message):
    write_folder(tmp_path, ["a.png"])
    file = write(tmp_path / name, text)
    with pytest.raises(ValueError, match=message) as caught:
        picture_list.open_list(file, place(file, columns=Columns(**options)))
    assert "\n" not in str(caught.value)


def test_problems_can_be_fatal(tmp_path):
    write_folder(tmp_path, ["a.png"])
    write(tmp_path / "l.csv", "image,label\na.png,x\nz.png,y\n")
    where = place(tmp_path, problems=Problems("fail"))
    picture_list.FORMAT.open(where)
    with pytest.raises(ValueError, match=r"1 bad annotations \(missing picture: 1\): .*l\.csv, z\.png"):
        where.problems.settle()


def test_a_source_survives_pickling_and_holds_no_object_for_each_sample(tmp_path):
    write_folder(tmp_path, NAMES)
    write(tmp_path / "l.csv", "image,label,caption\na.png,x,one\nb.png,y,two\n")
    source = opened(tmp_path)[0]["all"]
    assert pickle.loads(pickle.dumps(source))[1].captions == ("two",)
    assert not any(isinstance(value, list | dict | tuple) for name, value in vars(source).items() if name != "classes")
    assert isinstance(source._labels, np.ndarray)
    with pytest.raises(IndexError):
        source[2]


def test_a_tiff_stays_a_path(tmp_path):
    write_folder(tmp_path, ["a.tif"])
    write(tmp_path / "l.csv", "image,label\na.tif,x\n")
    assert opened(tmp_path)[0]["all"][0].image == tmp_path / "a.tif"


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data sets are not beside this checkout")
def test_lists_whose_pictures_are_elsewhere_are_left_to_other_formats():
    claimed = [folder for folder in sorted(SHARED.glob("*/*")) if folder.is_dir() and picture_list.FORMAT.claims(place(folder))]
    assert [folder.parent.name for folder in claimed] == ["daquar", "daquar"]


def test_absolute_paths_are_read_if_they_are_regular_files(tmp_path):
    write_folder(tmp_path, ["elsewhere/a.png"])
    (tmp_path / "elsewhere" / "b.png").symlink_to("/dev/null")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "list.csv").write_text("image\n" + "".join(f"{tmp_path}/elsewhere/{name}.png\n" for name in "ab"))
    place = Place(str(tmp_path / "c"), (tmp_path / "c",), annotations=("list.csv",))
    source = picture_list.FORMAT.open(place)["all"]
    assert source[0].image == picture(0)
    with pytest.raises(ValueError, match=r"b\.png is no regular file"):
        source[1]
