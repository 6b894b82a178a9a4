from __future__ import annotations

import pickle
from collections import Counter

import pytest
from pictures_on_disk import SHARED, picture, write_parquet

from mae_vlm.data.sources import parquet
from mae_vlm.data.sources.base import Columns, Place
from mae_vlm.data.sources.parquet import Parquet
from mae_vlm.types import Question


@pytest.mark.parametrize("struct", [True, False])
def test_rows_of_several_files_come_in_order(tmp_path, struct):
    files = [write_parquet(tmp_path / f"{name}.parquet", 10, struct=struct) for name in "ab"]
    source = Parquet(files)
    assert len(source) == 20 and source.classes == (["cat", "dog"] if struct else None)
    assert [source[i].image for i in (0, 9, 10, 19)] == [picture(n) for n in (0, 9, 0, 9)]
    assert [source[i].label for i in (0, 1, 10, 11)] == [0, 1, 0, 1]
    assert source.name(13) == source[13].id == "b.parquet:3", "both tables have a p/3.png"
    assert [name.decode() for name in source.names().to_pylist()] == [source.name(i) for i in range(20)]


def test_samples_without_a_path_are_named_by_file_and_row(tmp_path):
    assert Parquet([write_parquet(tmp_path / "a.parquet", 3, paths=False)]).name(2) == "a.parquet:2"


def test_large_tables_keep_a_few_row_groups_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "WHOLE_BYTES", 100)
    source = Parquet([write_parquet(tmp_path / "a.parquet", 40, row_group=2)])
    assert [source[i].image == picture(i) for i in range(40)] == [True] * 40
    assert len(source._cache) == 8


def test_a_pickled_source_is_small_and_reads_again(tmp_path):
    source = Parquet([write_parquet(tmp_path / "a.parquet", 40)])
    assert source[3].image == picture(3)
    data = pickle.dumps(source)
    assert len(data) < 2000 and pickle.loads(data)[3].image == picture(3)


def test_columns_can_be_named(tmp_path):
    source = Parquet([write_parquet(tmp_path / "a.parquet", 4)], Columns("image", "label"))
    assert source[1].label == 1


@pytest.mark.parametrize("option", ["image", "label", "caption", "question", "answer"])
def test_an_unknown_column_is_refused_with_those_there_are(tmp_path, option):
    with pytest.raises(ValueError, match=rf"data\.{option}_column picture is not a column of .*; its columns are image, label"):
        Parquet([write_parquet(tmp_path / "a.parquet", 4)], Columns(**{option: "picture"}))


def test_a_column_of_another_type_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data\.image_column label .* is int64, not encoded pictures"):
        Parquet([write_parquet(tmp_path / "a.parquet", 4)], Columns(image="label"))


def test_what_is_no_parquet_is_refused(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"a\.parquet is not a parquet file, or is damaged"):
        Parquet([tmp_path / "a.parquet"])


@pytest.mark.parametrize(
    ("more", "captions"),
    [
        ({"caption": ["one", "two"]}, ("two",)),
        ({"sentences": [["one"], ["two", "", "three"]]}, ("two", "three")),
        ({"caption_0": ["one", "two"], "caption_1": ["x", None]}, ("two",)),
        (
            {
                "Text": [
                    None,
                    None,
                ],
                "sentences_raw": ["a", "b"],
            },
            (),
        ),
        ({"captions": [[{"raw": "one", "id": 1}], [{"raw": "two", "id": 2}]]}, ("two",)),
    ],
)
def test_captions_are_strings_or_lists_of_them_found_by_name(tmp_path, more, captions):
    assert Parquet([write_parquet(tmp_path / "a.parquet", 2, more=more)])[1].captions == captions


def test_a_named_caption_column_wins_and_must_hold_strings(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", 2, more={"caption": ["one", "two"], "alt": ["three", "four"]})
    assert Parquet([file], Columns(caption="alt"))[0].captions == ("three",)
    with pytest.raises(ValueError, match=r"data\.caption_column label of .* is int64, not strings or lists of them; name another$"):
        Parquet([file], Columns(caption="label"))


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"question": ["who?", "what?"], "answer": ["I", "cat"]}, (Question("what?", ("cat",)),)),
        ({"question": ["who?", "how many?"], "answer": [1, 2]}, (Question("how many?", ("2",)),)),
        (
            {"questions": [["who?"], ["what?", "where?"]], "answers": [["I"], ["cat", "here"]]},
            (Question("what?", ("cat",)), Question("where?", ("here",))),
        ),
        (
            {"question": ["who?", "what?"], "answers": [["I"], ["cat", "cat"]], "multiple_choice_answer": ["I", "cat"]},
            (Question("what?", ("cat", "cat")),),
        ),
        (
            {"question": ["who?", "what?"], "answers": [[{"answer": "I", "answer_id": 1}], [{"answer": "cat", "answer_id": 1}]]},
            (Question("what?", ("cat",)),),
        ),
        ({"question": ["who?", "what?"]}, (Question("what?", ()),)),
    ],
)
def test_questions_come_with_their_answers(tmp_path, more, expected):
    assert Parquet([write_parquet(tmp_path / "a.parquet", 2, more=more)])[1].questions == expected


def test_lists_of_two_lengths_name_their_row(tmp_path):
    more = {"questions": [["who?"], ["what?", "where?"]], "answers": [["I"], ["cat"]]}
    with pytest.raises(ValueError, match=r"^p/1\.png: 2 questions but 1 answers; correct the row$"):
        Parquet([write_parquet(tmp_path / "a.parquet", 2, more=more)])[1]


def test_names_are_the_paths_where_all_have_one_of_their_own(tmp_path):
    source = Parquet([write_parquet(tmp_path / "a.parquet", 5)])
    assert source.name(3) == source[3].id == "p/3.png" and source.names().to_pylist()[3] == b"p/3.png"


def test_tables_of_one_name_in_two_folders_name_their_rows_apart(tmp_path):
    source = Parquet([write_parquet(tmp_path / folder / "0.parquet", 2, paths=False) for folder in ("a", "b")])
    assert [source.name(i) for i in range(4)] == ["a/0.parquet:0", "a/0.parquet:1", "b/0.parquet:0", "b/0.parquet:1"]


def test_row_groups_of_large_tables_are_blocks(tmp_path, monkeypatch):
    files = [write_parquet(tmp_path / f"{name}.parquet", 10) for name in "ab"]
    assert Parquet(files).block_ends is None and not Parquet(files).prefers_blocks
    monkeypatch.setattr(parquet, "WHOLE_BYTES", 100)
    assert Parquet(files).block_ends.tolist() == [4, 8, 10, 14, 18, 20] and Parquet(files).prefers_blocks


def test_a_column_of_splits_makes_the_parts(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", 5, more={"split": ["train", "test", "restval", "val", "spare"]})
    place = Place(str(tmp_path), (file,), Columns(split="split"))
    parts = parquet.FORMAT.open(place)
    assert {name: [part.name(i) for i in range(len(part))] for name, part in parts.items()} == {
        "train": ["p/0.png", "p/2.png"],
        "val": ["p/3.png"],
        "test": ["p/1.png"],
    }
    assert place.problems.counts == {"unknown split": 1}
    with pytest.raises(ValueError, match=r"data\.split_column part is not a column of .*; its columns are image, label, split$"):
        parquet.FORMAT.open(Place(str(tmp_path), (file,), Columns(split="part")))


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data sets are not beside this checkout")
@pytest.mark.parametrize(("part", "pictures", "questions"), [("train", 4_000, 38_575), ("val", 500, 4_868)])
def test_easy_vqa_has_the_counts_of_its_readme(part, pictures, questions):
    source = Parquet(sorted((SHARED / "easy-vqa" / part).glob("*.parquet")))
    asked = [question for index in range(len(source)) for question in source[index].questions]
    assert len(source) == pictures and len(asked) == questions
    answers = {question.answers for question in asked}
    assert len(answers) == 13 and all(len(given) == 1 for given in answers)


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data sets are not beside this checkout")
@pytest.mark.parametrize(("name", "train", "val", "classes"), [("cifar10", 18_000, 3_000, 10), ("tiny-imagenet-20", 6_400, 1_000, 20)])
def test_classified_sets_have_the_counts_of_their_readme(name, train, val, classes):
    for part, count in (("train", train), ("val", val)):
        source = Parquet(sorted((SHARED / name / part).glob("*.parquet")))
        labels = Counter(source[index].label for index in range(0, len(source)))
        assert len(source) == count and len(source.classes) == classes
        assert sorted(labels) == list(range(classes)) and set(labels.values()) == {count // classes}
        assert not source.words.all


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data sets are not beside this checkout")
def test_cifar_reads_with_its_class_names():
    source = Parquet([SHARED / "cifar10" / "train" / "train-00000-of-00001.parquet"])
    sample = source[17_999]
    assert sample.label is not None and source.classes is not None
    assert f"/{source.classes[sample.label]}/" in sample.id
