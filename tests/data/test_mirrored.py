"""What is said of a mirrored picture stays true."""

import numpy as np
import pytest
import torch

from mae_vlm.data.mirrored import mirrored, swap
from mae_vlm.data.reader import Reader
from mae_vlm.data.sampler import Draw
from mae_vlm.data.sources.parts.scene_drawing import COLOURS, SHAPES
from mae_vlm.data.sources.scenes import Scenes
from mae_vlm.data.transforms import Augment, Resize
from mae_vlm.types import Question, Sample


@pytest.mark.parametrize(
    "text, other",
    [
        ("a dog left of a cat", "a dog right of a cat"),
        ("Left of the leftmost, RIGHT side", "Right of the rightmost, LEFT side"),
        ("the right-hand one goes leftwards", "the left-hand one goes rightwards"),
        ("a bright light, leftover and alright", "a bright light, leftover and alright"),
    ],
)
def test_left_and_right_change_places_as_whole_words(text, other):
    assert swap(text) == other and swap(other) == text


def test_captions_questions_and_answers_are_swapped_and_nothing_else():
    sample = Sample("a", b"", 3, ("left of it",), (Question("what is right of it?", ("the left one", "yes")),))
    found = mirrored(sample)
    assert found.captions == ("right of it",) and found.questions == (Question("what is left of it?", ("the right one", "yes")),)
    assert (found.id, found.label) == ("a", 3)


def _side_is_true(text: str, sample: Sample, mirrored: bool) -> bool:
    """Whether "a RED CIRCLE left of a BLUE STAR" is true of the boxes of a scene, mirrored or not."""
    first, relation, second = text.partition(" left of ") if " left of " in text else text.partition(" right of ")
    assert relation
    places = {}
    for part in (first, second):
        _, colour, shape = part.split()
        assert colour in COLOURS and shape in SHAPES
        same = [box for box, kind in zip(sample.boxes, sample.classes.tolist(), strict=True) if SHAPES[kind] == shape]
        places[part] = [float(box[0] + box[2]) / 2 * (-1 if mirrored else 1) for box in same]
    if len(places[first]) != 1 or len(places[second]) != 1:
        return True  # two of a shape: the boxes do not tell which is meant
    return (places[first][0] < places[second][0]) == (relation == " left of ")


def test_a_caption_is_true_of_the_picture_that_the_model_gets():
    scenes, flip = Scenes(200), Augment((64, 64), (1.0, 1.0), flip=0.5)
    batch = Reader(scenes, flip, 0, 3)[[Draw(index, 0, True) for index in range(200)]]
    checked = flipped = 0
    for number, told in enumerate(batch.captions):
        sample = scenes[number]
        turned = flip.flips(int(batch.keys_B[number]))
        assert np.array_equal(batch.images_BCHW[number].numpy(), (sample.image.flip(2) if turned else sample.image).numpy())
        for text in told:
            if " left of " in text or " right of " in text:
                assert _side_is_true(text, sample, turned), (text, sample.captions)
                checked, flipped = checked + 1, flipped + turned
    assert checked > 40 and 10 < flipped < checked - 10


def test_a_second_view_is_another_crop_of_the_same_picture_and_the_same_again_for_the_same_key():
    reader = Reader(Scenes(6), Augment((32, 32)), 0, 3)
    draws = [Draw(index, 0, True) for index in range(6)]
    assert reader[draws].second_BCHW is None
    plain = reader[draws].images_BCHW
    reader.second = True
    batch, again = reader[draws], reader[draws]
    assert torch.equal(batch.images_BCHW, plain) and torch.equal(batch.second_BCHW, again.second_BCHW)
    assert batch.second_BCHW.shape == plain.shape
    assert all(not torch.equal(one, other) for one, other in zip(batch.images_BCHW, batch.second_BCHW, strict=True))
    still = Reader(Scenes(6), Resize((64, 64)), 0, 3)
    still.second = True
    assert torch.equal(still[draws].images_BCHW, still[draws].second_BCHW)
