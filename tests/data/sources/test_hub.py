from __future__ import annotations

import datasets
import pytest
from pictures_on_disk import picture

from mae_vlm.data.sources.base import Columns
from mae_vlm.data.sources.hub import HubSplit, open_hub


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
        HubSplit(table(), "n", image_column="picture")
    with pytest.raises(ValueError, match="no column of n holds pictures; its columns are text"):
        HubSplit(table().select_columns(["text"]), "n")


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
