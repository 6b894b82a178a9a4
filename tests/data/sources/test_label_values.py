"""Label columns of lists and tables that hold several classes of each picture, or numbers to learn."""

from __future__ import annotations

import json
import pickle
import warnings

import pyarrow as pa
import pytest
from pictures_on_disk import write_folder, write_parquet

from mae_vlm.data.collection import open_collection
from mae_vlm.data.problems import Problems
from mae_vlm.data.sources import picture_list
from mae_vlm.data.sources.base import Columns, Joined, Part, Place
from mae_vlm.data.sources.parquet import Parquet

NAMES = ["a.png", "b.png", "c.png", "d.png"]
TAGS = {
    "l.csv": "image,tags\na.png,dog|cat\nb.png,cat\nc.png,\nd.png,[]\n",
    "json.csv": 'image,tags\na.png,"[""dog"", ""cat""]"\nb.png,"[""cat""]"\nc.png,\nd.png,[]\n',
    "l.tsv": "image\ttags\na.png\t dog | cat\nb.png\tcat\nc.png\t\nd.png\t[]\n",
    "l.jsonl": '{"image": "a.png", "tags": ["dog", "cat"]}\n{"image": "b.png", "tags": ["cat"]}\n{"image": "c.png"}\n'
    '{"image": "d.png", "tags": []}\n',
}


def opened(root, **columns):
    place = Place(str(root), (root,), Columns(**columns))
    return picture_list.FORMAT.open(place)["all"], place.problems.counts


def values(source):
    return [None if source[i].values is None else source[i].values.tolist() for i in range(len(source))]


@pytest.mark.parametrize("name", TAGS)
def test_every_form_of_several_classes_is_the_same(tmp_path, name):
    write_folder(tmp_path, NAMES)
    (tmp_path / name).write_text(TAGS[name])
    source, problems = opened(tmp_path, label="tags")
    assert source.classes == ["cat", "dog"] and source.several and not source.numbers and not problems
    assert values(source) == [[1, 1], [1, 0], None, [0, 0]], "of an empty cell nothing is known, of [] that there is none"
    assert all(source[i].label is None for i in range(4))
    assert values(pickle.loads(pickle.dumps(source))) == values(source)


def test_a_column_of_lists_with_a_usual_name_is_found(tmp_path):
    write_folder(tmp_path, NAMES)
    (tmp_path / "l.jsonl").write_text('{"image": "a.png", "labels": [10, 9]}\n{"image": "b.png", "labels": []}\n')
    source, _ = opened(tmp_path)
    assert source.classes == ["9", "10"] and values(source) == [[1, 1], [0, 0]]


@pytest.mark.parametrize(
    "name, text, options, expected",
    [
        ("l.csv", "image,y\na.png,0.5\nb.png,-2.25\nc.png,\n", {}, [[0.5], [-2.25], None]),
        ("l.csv", "image,y\na.png,31\nb.png,7\nc.png,\n", {"label_kind": "number"}, [[31], [7], None]),
        ("l.csv", "image,y\na.png,0.5|1.5\nb.png,2.0|3.0\nc.png,\n", {}, [[0.5, 1.5], [2, 3], None]),
        ("l.csv", 'image,y\na.png,"[0.5, 1.5]"\nb.png,"[2.0, 3.0]"\nc.png,\n', {}, [[0.5, 1.5], [2, 3], None]),
        ("l.jsonl", '{"image": "a.png", "y": 1e3}\n{"image": "b.png", "y": 2}\n{"image": "c.png"}\n', {}, [[1000], [2], None]),
        (
            "l.jsonl",
            '{"image": "a.png", "y": [1.5, 2]}\n{"image": "b.png", "y": [0, 0.5]}\n{"image": "c.png"}\n',
            {},
            [[1.5, 2], [0, 0.5], None],
        ),
    ],
)
def test_every_form_of_numbers(tmp_path, name, text, options, expected):
    write_folder(tmp_path, NAMES)
    (tmp_path / name).write_text(text)
    source, problems = opened(tmp_path, label="y", **options)
    assert values(source) == expected and source.numbers == len(expected[0]) and source.classes is None and not problems


def test_rows_with_another_count_of_numbers_are_refused(tmp_path):
    write_folder(tmp_path, NAMES)
    (tmp_path / "l.csv").write_text("image,y\na.png,0.5|1.5\nb.png,2.0\n")
    with pytest.raises(ValueError, match=r"row 2 of .* holds 1 numbers, row 1 holds 2; give all rows as many"):
        opened(tmp_path, label="y")


def test_whole_numbers_stay_classes_and_one_class_is_one_label(tmp_path):
    write_folder(tmp_path, NAMES)
    (tmp_path / "l.csv").write_text("image,label\na.png,3\nb.png,1\n")
    source, _ = opened(tmp_path)
    assert source.classes == ["1", "3"] and source[0].label == 1 and source[0].values is None and not source.several
    source, _ = opened(tmp_path, label_kind="classes")
    assert source.several and values(source) == [[0, 1], [1, 0]]


def test_validation_goes_by_the_classes_of_training_and_tells_others(tmp_path):
    write_folder(tmp_path, NAMES)
    (tmp_path / "train.csv").write_text("image,tags\na.png,dog|cat\nb.png,fox|cat\n")
    (tmp_path / "val.csv").write_text("image,tags\nc.png,wolf|dog\n")
    place = Place(str(tmp_path), (tmp_path,), Columns(label="tags"))
    parts = picture_list.FORMAT.open(place)
    assert parts["val"].classes == ["cat", "dog", "fox"] and values(parts["val"]) == [[0, 1, 0]]
    assert place.problems.counts == {"unknown label": 1}


def test_the_first_row_of_a_picture_counts(tmp_path):
    write_folder(tmp_path, NAMES)
    (tmp_path / "l.csv").write_text("image,tags,caption\nb.png,cat|dog,one\na.png,dog|dog,two\nb.png,fox|dog,three\n")
    source, _ = opened(tmp_path, label="tags")
    told = {source.name(i): source[i].values.tolist() for i in range(len(source))}
    assert told == {"b.png": [1, 1, 0], "a.png": [0, 1, 0]} and source[0].captions == ("one", "three")


# -- tables


def table(tmp_path, **columns):
    return write_parquet(tmp_path / "t.parquet", 4, struct=False, more={name: pa.array(*given) for name, given in columns.items()})


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.string())], ids=str)
def test_lists_of_names_in_a_table(tmp_path, kind):
    source = Parquet([table(tmp_path, tags=([["dog", "cat"], ["cat"], None, []], kind))], Columns(label="tags"))
    assert source.classes == ["cat", "dog"] and values(source) == [[1, 1], [1, 0], None, [0, 0]]
    assert source[0].label is None and values(pickle.loads(pickle.dumps(source))) == values(source)


def test_lists_of_numbers_have_the_names_that_datasets_wrote_down(tmp_path):
    import pyarrow.parquet as pq

    file = table(tmp_path, objects=([[2, 0], [0], [], None], pa.list_(pa.int64())))
    features = {"objects": {"_type": "List", "feature": {"_type": "ClassLabel", "names": ["dog", "cat", "fox"]}}}
    pq.write_table(pq.read_table(file).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), file)
    source = Parquet([file], Columns(label="objects"))
    assert source.classes == ["dog", "cat", "fox"] and values(source) == [[1, 0, 1], [1, 0, 0], [0, 0, 0], None]


@pytest.mark.parametrize(
    "given, options, expected",
    [
        (([0.5, 1.5, None, 2.0],), {}, [[0.5], [1.5], None, [2.0]]),
        (([[0.5, 1.0], [1.5, 2.0], None, [2.0, 3.0]], pa.list_(pa.float32())), {}, [[0.5, 1], [1.5, 2], None, [2, 3]]),
        (([[0.5, 1.0], [1.5, 2.0], None, [2.0, 3.0]], pa.list_(pa.float32(), 2)), {}, [[0.5, 1], [1.5, 2], None, [2, 3]]),
        (([31, 7, None, 1],), {"label_kind": "number"}, [[31], [7], None, [1]]),
    ],
)
def test_numbers_of_a_table(tmp_path, given, options, expected):
    source = Parquet([table(tmp_path, y=given)], Columns(label="y", **options))
    assert values(source) == expected and source.numbers == len(expected[0]) and source.classes is None and source[0].label is None


def test_tables_of_two_parts_share_their_classes(tmp_path):
    for part, tags in (("train", [["dog"], ["cat"]]), ("val", [["dog"], ["wolf", "cat"]])):
        write_parquet(tmp_path / part / "t.parquet", 2, struct=False, more={"tags": pa.array(tags)})
    problems = Problems()
    parts = open_collection(Place(str(tmp_path), columns=Columns(label="tags"), problems=problems), "parquet").parts
    assert values(parts["val"]) == [[0, 1], [1, 0]] and parts["val"].classes == ["cat", "dog"] and problems.counts == {"unknown label": 1}


# -- whole numbers written as fractions


def of_table(tmp_path, kind="auto"):
    return Parquet([table(tmp_path, y=([1.0, 2.0, None, 1.0],))], Columns(label="y", label_kind=kind))


def of_list(tmp_path, kind="auto", name="l.csv", text="image,y\na.png,1.0\nb.png,2.0\n"):
    write_folder(tmp_path, NAMES)
    (tmp_path / name).write_text(text)
    return opened(tmp_path, label="y", label_kind=kind)[0]


@pytest.mark.parametrize("build", [of_table, of_list])
def test_whole_numbers_written_as_fractions_are_numbers_and_a_line_says_so(tmp_path, build):
    with pytest.warns(UserWarning, match=r"data\.label_column y of .* holds whole numbers as fractions .* data\.label_kind class") as told:
        source = build(tmp_path)
    assert len(told) == 1 and source.numbers == 1 and source[1].values.tolist() == [2.0]


@pytest.mark.parametrize("build", [of_table, of_list])
def test_who_says_that_they_are_numbers_hears_nothing(tmp_path, build):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert build(tmp_path, "number").numbers == 1


def test_they_are_classes_where_somebody_says_so(tmp_path):
    lines = '{"image": "a.png", "y": 2.0}\n{"image": "b.png", "y": 1.0}\n'
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tabled, listed = of_table(tmp_path / "table", "class"), of_list(tmp_path / "list", "class", "l.jsonl", lines)
    assert [tabled[i].label for i in range(4)] == [1, 2, None, 1] and not tabled.numbers
    assert listed.classes == ["1", "2"] and [listed[i].label for i in range(2)] == [1, 0]


def test_real_fractions_are_no_classes_whatever_somebody_says(tmp_path):
    with pytest.raises(ValueError, match=r"y of .* holds fractions, which are no classes; set data.label_kind number"):
        Parquet([table(tmp_path, y=([1.5, 2.0, None, 1.0],))], Columns(label="y", label_kind="class"))


# -- sources made of others


def test_a_part_keeps_them_and_joined_sources_share_their_classes(tmp_path):
    sources = []
    for name, cells in (("one", "dog|cat,fox"), ("two", "fox|ant,dog")):
        write_folder(tmp_path / name, ["a.png", "b.png"])
        first, second = cells.split(",")
        (tmp_path / name / "l.csv").write_text(f"image,tags\na.png,{first}\nb.png,{second}\n")
        sources.append(opened(tmp_path / name, label="tags")[0])
    joined = Joined(sources)
    assert joined.classes == ["cat", "dog", "fox", "ant"] and joined.several
    assert values(joined) == [[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1], [0, 1, 0, 0]]
    import numpy as np

    part = Part(joined, np.array([1, 3]))
    assert part.several and values(part) == [[0, 0, 1, 0], [0, 1, 0, 0]]


def test_one_class_a_picture_beside_several_becomes_one_of_them(tmp_path):
    write_folder(tmp_path, ["a.png", "b.png"])
    (tmp_path / "l.csv").write_text("image,tags,label\na.png,dog|cat,cat\nb.png,fox|cat,ant\n")
    joined = Joined([opened(tmp_path, label="tags")[0], opened(tmp_path, label="label")[0]])
    assert joined.classes == ["cat", "dog", "fox", "ant"]
    assert values(joined) == [[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]] and joined[2].label is None
