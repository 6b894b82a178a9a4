"""Promises of mae_vlm.callbacks.predicted_maps."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from mae_vlm.callbacks.predicted_maps import has_map, map_file, write_map, write_names
from mae_vlm.types import Prediction


def test_maps_are_grey_pngs_under_the_pictures_names(tmp_path):
    semantic = torch.arange(12, dtype=torch.uint8).view(3, 4)
    for id, name in (("a/b.c.JPG", "a/b.c.png"), ("frame.0001", "frame.0001.png"), ("7.png", "7.png"), ("scene-0-1", "scene-0-1.png")):
        assert not has_map(tmp_path, id)
        file = write_map(tmp_path, Prediction(id, semantic=semantic))
        assert file == tmp_path / name == map_file(tmp_path, id) and has_map(tmp_path, id)
        with Image.open(file) as stored:
            assert stored.mode == "L" and np.array_equal(np.array(stored), semantic.numpy())
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["7.png", "b.c.png", "frame.0001.png", "scene-0-1.png"]


@pytest.mark.parametrize("id", ["../../etc/x.png", "/etc/x.png", "..", "", "a/../../x"])
def test_no_name_of_a_picture_leads_out_of_the_folder(id, tmp_path):
    assert tmp_path.resolve() in map_file(tmp_path, id).resolve().parents


def test_the_names_of_the_numbers_lie_beside_with_their_colours(tmp_path):
    with write_names(tmp_path, ["sky", "road, wet"]).open() as file:
        rows = list(csv.DictReader(file))
    assert rows[1] == {"number": "1", "class": "road, wet", "red": "128", "green": "0", "blue": "0"}
