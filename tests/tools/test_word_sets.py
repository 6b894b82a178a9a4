"""What the figures on real sets of words are made of."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mae_vlm.data.collection import open_collection
from mae_vlm.data.sources.base import Place
from tools.word_ranks import ranked
from tools.word_sets import asked_in, compared, interval, median_interval, shown_others


def test_the_interval_of_a_difference_holds_it_and_narrows_with_more_items():
    chance = np.random.default_rng(1)
    ours, theirs = (chance.random(400) < 0.7) * 100.0, (chance.random(400) < 0.5) * 100.0
    mean, low, high = interval(ours, theirs)
    few = interval(ours[:40], theirs[:40])
    assert low < mean < high and mean == pytest.approx((ours - theirs).mean(), abs=0.01) and low > 0
    assert high - low < few[2] - few[1]
    assert interval(ours, ours) == [0, 0, 0]


def test_shares_are_told_over_all_questions_and_over_the_open_ones():
    right = {"seeing": np.array([True, True, False, True]), "blind": np.array([True, False, False, False])}
    found = compared(right, np.array([False, True, True, True]))
    assert found["all"] == {"seeing": 75.0, "blind": 25.0} and found["not_yes_no"] == {"seeing": 66.67, "blind": 0.0}
    assert found["all_ahead_of"]["blind"][0] == 50 and "not_yes_no" not in compared(right, np.zeros(4, np.bool_))


def test_a_median_is_drawn_by_picture_and_missing_captions_count_for_nothing():
    rank = np.array([[1.0, 3.0], [5.0, np.nan], [1.0, 3.0]])
    middle, low, high = median_interval(rank)
    assert middle == 3 and 1 <= low <= 3 <= high <= 5


def test_ranks_count_those_that_are_as_near_and_not_right():
    near_RG = torch.tensor([[0.9, 0.1, 0.2], [0.3, 0.8, 0.3], [0.5, 0.5, 0.1], [0.2, 0.7, 0.6]])
    found = ranked(near_RG, torch.tensor([0, 0, 1, 2]))
    text = found["text_to_image"]
    assert text[0].tolist() == [0, 2] and text[1, 0] == 1 and text[2, 0] == 1
    assert np.isnan(text[1:, 1]).all(), "these have one caption only"
    assert found["image_to_text"][:, 0].tolist() == [0, 2, 0]


def test_the_picture_of_another_sample_is_shown_with_the_same_questions(tmp_path):
    rows = []
    for number, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "question": "which colour?", "answer": colour})
    (tmp_path / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = open_collection(Place(str(tmp_path))).parts["all"]
    other = open_collection(Place(str(shown_others(source, tmp_path / "others")))).parts["all"]
    assert [one[1:] for one in asked_in(other)] == [one[1:] for one in asked_in(source)]
    assert [one[2] for one in asked_in(other)] == ["red", "green", "blue"]
    assert [other[i].image for i in range(3)] == [source[i].image for i in (1, 2, 0)]
