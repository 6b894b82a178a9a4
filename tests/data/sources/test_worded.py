"""Words without pictures: what a vocabulary is learned from costs no picture's bytes."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest
from pictures_on_disk import picture, write_folder, write_parquet, write_tar

from mae_vlm.data import answers, captions
from mae_vlm.data.mixture import Prefixed
from mae_vlm.data.sources.base import Columns, Joined, Part, Place
from mae_vlm.data.sources.coco import FORMAT as COCO
from mae_vlm.data.sources.parquet import Parquet
from mae_vlm.data.sources.picture_list import open_lists
from mae_vlm.data.sources.tar_shards import TarShards

ROWS = ["image,caption,question,answer", "a.png,a red square,what is it,a square", "b.png,two rings,how many,2", "c.png,,,"]


@pytest.fixture
def listed(tmp_path):
    """A list of three pictures with words, whose files are deleted once it is open."""
    folder = write_folder(tmp_path / "listed", ["a.png", "b.png", "c.png"])
    (folder / "list.csv").write_text("\n".join(ROWS) + "\n")
    source = open_lists(Place(str(folder), (folder,)))["all"]
    for name in ("a.png", "b.png", "c.png"):
        (folder / name).unlink()
    return source


@pytest.fixture
def table(tmp_path):
    words = {"caption": [f"picture {i}" for i in range(10)], "question": ["what is it"] * 10, "answer": ["a cat", "a dog"] * 5}
    return Parquet([write_parquet(tmp_path / "table.parquet", 10, row_group=4, more=words)])


@pytest.fixture
def shard(tmp_path):
    told = {"mae_vlm": 1, "label": 1, "questions": [{"question": "what is it", "answers": ["a cat"]}], "boxes": [[0, 0, 5, 5]]}
    members = {"0.png": picture(0), "0.txt": b"a red square\ntwo rings\n", "1.png": picture(1), "1.json": json.dumps(told).encode()}
    return TarShards([write_tar(tmp_path / "s.tar", members | {"2.png": picture(2)})])


def said(sample):
    return sample.id, sample.captions, sample.questions


def test_a_list_tells_its_words_when_its_pictures_are_gone(listed):
    assert [listed.worded(index).captions for index in range(3)] == [("a red square",), ("two rings",), ()]
    assert captions.texts(listed) == ["a red square", "what is it", "a square", "two rings", "how many", "2"]
    assert answers.common(listed) == ["a square", "2"] or answers.common(listed) == ["2", "a square"]
    with pytest.raises((OSError, ValueError)):
        listed[0]


def test_a_table_reads_the_columns_of_words_alone_and_each_row_group_once(table, monkeypatch):
    whole = [said(table[index]) for index in range(10)]
    asked, before = [], pq.ParquetFile.read_row_group

    def noted(self, group, columns=None, **more):
        asked.append((group, tuple(columns)))
        return before(self, group, columns=columns, **more)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", noted)
    alone = pickle.loads(pickle.dumps(table))
    found = [alone.worded(index) for index in range(10)]
    assert [said(sample) for sample in found] == whole and all(sample.image == b"" for sample in found)
    assert asked == [(group, ("caption", "question", "answer")) for group in range(3)]
    with pytest.raises(IndexError):
        alone.worded(10)


def test_a_shard_reads_its_members_of_text_alone(shard, monkeypatch):
    whole = [said(shard[index]) for index in range(3)]
    assert whole[0][1] == ("a red square", "two rings") and whole[1][2][0].text == "what is it"
    read, before = [], TarShards._read

    def noted(self, index, kind):
        read.append((index, kind))
        return before(self, index, kind)

    monkeypatch.setattr(TarShards, "_read", noted)
    found = [shard.worded(index) for index in range(3)]
    assert [said(sample) for sample in found] == whole and all(sample.image == b"" for sample in found)
    assert read == [(0, "text_"), (1, "json_")]
    with pytest.raises(IndexError):
        shard.worded(3)


def test_parts_mixtures_and_joined_sources_pass_the_question_on(listed, shard):
    part = Part(listed, np.array([1, 2]))
    assert part.worded(0).captions == ("two rings",)
    joined = Joined([Prefixed(part, "mine"), listed])
    assert [joined.worded(index).captions for index in range(5)] == [("two rings",), (), ("a red square",), ("two rings",), ()]


def test_annotations_of_coco_tell_their_captions_when_the_pictures_are_gone(tmp_path):
    folder = write_folder(tmp_path / "coco", ["images/1.png", "images/2.png"])
    images = [{"id": number, "file_name": f"{number}.png", "height": 20, "width": 24} for number in (1, 2)]
    sentences = [{"id": number, "image_id": 2, "caption": f"sentence {number}"} for number in (1, 2)]
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": sentences}))
    source = COCO.open(Place(str(folder), (folder,), Columns(), ("captions.json",)))["all"]
    for number in (1, 2):
        (folder / "images" / f"{number}.png").unlink()
    assert sorted(captions.texts(source)) == ["sentence 1", "sentence 2"]
