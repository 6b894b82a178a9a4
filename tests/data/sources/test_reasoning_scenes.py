from __future__ import annotations

from collections import Counter

import pytest
import torch

from mae_vlm.data.collection import open_collection
from mae_vlm.data.sources.base import Place
from mae_vlm.data.sources.parts.scene_drawing import COLOURS
from mae_vlm.data.sources.reasoning_scenes import SHOWN_COLOURS, SceneChoices, ScenePairs


def colour_of(image_CHW: torch.Tensor) -> str:
    """The colour that most stands out from the grey ground."""
    pixels_N3 = image_CHW.permute(1, 2, 0).reshape(-1, 3).float() / 255
    far = (pixels_N3 - pixels_N3[[0, -1]].mean(0)).abs().sum(1)
    figure = pixels_N3[far > 0.5 * far.max()].median(0).values
    return min(SHOWN_COLOURS, key=lambda name: (figure - torch.tensor(COLOURS[name])).abs().sum())


def test_a_sample_is_a_pure_function_of_seed_and_number():
    one, same, other = ScenePairs(4)[2], ScenePairs(9)[2], ScenePairs(4, seed=1)[2]
    assert torch.equal(one.image, same.image) and torch.equal(one.partner, same.partner) and one.questions == same.questions
    assert not torch.equal(one.image, other.image) and one.id != other.id and one.image.shape == (3, 64, 64)
    with pytest.raises(IndexError):
        ScenePairs(4)[4]


def test_statements_about_colours_are_true_exactly_where_they_say_so():
    checked = 0
    for sample in map(ScenePairs(60).__getitem__, range(60)):
        shown = {"left": colour_of(sample.image), "right": colour_of(sample.partner)}
        for statement in sample.questions:
            told = [part.split() for part in statement.text.replace("one is", "figure is").split(" and ")]
            if words := [(one[1], one[-1]) for one in told if one[-1] in COLOURS]:
                checked += 1
                assert (statement.answers == ("true",)) == all(shown[side] == colour for side, colour in words), statement
    assert checked > 40


def test_who_sees_no_picture_can_only_guess():
    stated = [one for sample in map(ScenePairs(250, side=32).__getitem__, range(250)) for one in sample.questions]
    assert 0.45 < sum(one.answers == ("true",) for one in stated) / len(stated) < 0.55
    ends = Counter((one.text.split()[-1], one.answers == ("true",)) for one in stated)
    for colour in SHOWN_COLOURS:
        assert 0.3 < ends[colour, True] / (ends[colour, True] + ends[colour, False]) < 0.7, colour
    asked = [one for sample in map(SceneChoices(150, side=32).__getitem__, range(150)) for one in sample.questions]
    places = Counter(one.choices.index(one.answers[0]) for one in asked)
    assert len(places) == 4 and min(places.values()) > 50


def test_candidates_share_colour_and_shape_evenly_and_one_is_right():
    for sample in map(SceneChoices(20).__getitem__, range(20)):
        what, why = sample.questions
        colours, shapes = zip(*(choice.split()[1:] for choice in what.choices), strict=True)
        assert sorted(Counter(colours).values()) == sorted(Counter(shapes).values()) == [2, 2]
        assert what.answers[0].split()[1] == colour_of(sample.image)
        assert why.rationale and why.text == f"what is shown? {what.answers[0]}" and len(set(why.choices)) == 4


def test_an_address_opens_them():
    found = open_collection(Place("scenes://pairs?train=8&val=2&side=32"))
    assert {part: len(source) for part, source in found.parts.items()} == {"train": 8, "val": 2} and found.format == "generated"
    assert found.parts["train"][0].partner.shape == (3, 32, 32) and found.parts["train"].name(0) != found.parts["val"].name(0)
    assert list(open_collection(Place("scenes://choices?val=0")).parts) == ["train"]


@pytest.mark.parametrize("path", ["scenes://triples", "scenes://pairs?count=8", "scenes://pairs?train=many"])
def test_another_address_is_refused(path):
    with pytest.raises(ValueError, match="is no generated collection; write scenes://pairs or scenes://choices"):
        open_collection(Place(path))


def test_sizes_out_of_range_are_refused():
    with pytest.raises(ValueError, match="8 scenes of 16 pixels given"):
        ScenePairs(8, side=16)
