from __future__ import annotations

import datasets
import pytest
from pictures_on_disk import picture

from mae_vlm.data.sources.base import Columns
from mae_vlm.data.sources.hub import HubSplit, open_hub
from mae_vlm.types import Question


def table():
    features = datasets.Features({"text": datasets.Value("string"), "img": datasets.Image(), "y": datasets.ClassLabel(names=["no", "yes"])})
    rows = {"text": ["a", "b"], "img": [{"bytes": picture(i), "path": None} for i in range(2)], "y": [1, 0]}
    return datasets.Dataset.from_dict(rows, features=features)


def test_pictures_stay_encoded_and_columns_are_found():
    source = HubSplit(table(), "org/name/train")
    assert source[1].image == picture(1) and source[0].label == 1 and source.classes == ["no", "yes"]
    assert source.name(1) == source[1].id == "org/name/train:1"


def test_unknown_columns_are_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"data\.image_column picture is not a column of n; its columns are text, img, y"):
        HubSplit(table(), "n", Columns(image="picture"))
    with pytest.raises(ValueError, match="no column of n holds pictures; its columns are text"):
        HubSplit(table().select_columns(["text"]), "n")


def test_captions_and_questions_are_found_by_name():
    source = HubSplit(table(), "org/name/train")
    assert source[1].captions == ("b",) and source[1].questions == ()
    rows = {
        "img": [{"bytes": picture(0), "path": None}],
        "questions": [["what?", "who?"]],
        "answers": [["cat", "I"]],
        "alt": [["one", "two"]],
    }
    made = datasets.Dataset.from_dict(rows).cast_column("img", datasets.Image())
    source = HubSplit(made, "n", Columns(caption="alt"))
    assert source[0].questions == (Question("what?", ("cat",)), Question("who?", ("I",))) and source[0].captions == ("one", "two")


@pytest.mark.parametrize("option", ["caption", "question", "answer"])
def test_unknown_word_columns_are_refused_with_those_there_are(option):
    with pytest.raises(ValueError, match=rf"data\.{option}_column said is not a column of n; its columns are text, img, y"):
        HubSplit(table(), "n", Columns(**{option: "said"}))


def test_a_split_column_does_not_go_with_the_hub():
    with pytest.raises(ValueError, match=r"data\.split_column part does not go with hf://datasets/org/name, whose splits the hub tells"):
        open_hub("hf://datasets/org/name", Columns(split="part"))


def test_name_and_revision_reach_the_hub_and_its_refusal_the_user(monkeypatch):
    asked = []

    def refuse(name, revision):
        asked.append((name, revision))
        raise ConnectionError("no route\nmore")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(ValueError, match=r"the hub did not give hf://datasets/org/name@v1: no route; check"):
        open_hub("hf://datasets/org/name@v1", Columns())
    assert asked == [("org/name", "v1")]


def test_other_names_never_reach_the_hub():
    with pytest.raises(ValueError, match=r"write hf://datasets/org/name"):
        open_hub("org/name", Columns())
