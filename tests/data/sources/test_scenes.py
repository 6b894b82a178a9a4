from __future__ import annotations

import pickle

import pytest
import torch

from mae_vlm.data.sources.parts.scene_drawing import COLOURS, GROUNDS, SHAPES, Figure, coverage
from mae_vlm.data.sources.scenes import Scenes

SIZES = [(32, 32), (64, 64), (48, 96)]


@pytest.mark.parametrize("size", SIZES)
def test_a_scene_is_a_pure_function_of_seed_and_index(size):
    for index in range(20):
        one, other = Scenes(100, size, seed=3)[index], pickle.loads(pickle.dumps(Scenes(100, size, seed=3)))[index]
        assert torch.equal(one.image, other.image) and one.captions == other.captions and torch.equal(one.masks, other.masks)
        assert one.image.dtype == torch.uint8 and one.image.shape == (3, *size)


def test_seeds_and_indices_give_other_scenes():
    pictures = {Scenes(10, seed=seed)[index].image.numpy().tobytes() for seed in range(3) for index in range(10)}
    assert len(pictures) == 30


@pytest.mark.parametrize("size", SIZES)
def test_boxes_are_the_extents_of_the_masks(size):
    for index in range(60):
        scene = Scenes(60, size)[index]
        assert len(scene.boxes) == len(scene.masks) == len(scene.classes) <= 4
        for box, mask in zip(scene.boxes, scene.masks, strict=True):
            ys, xs = mask.nonzero(as_tuple=True)
            assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_masks_do_not_overlap_and_the_label_is_the_largest():
    for index in range(60):
        scene = Scenes(60)[index]
        assert scene.masks.sum(0).max() == 1
        assert scene.label == scene.classes[scene.masks.sum((1, 2)).argmax()]


def test_captions_name_what_is_there_with_its_colour():
    for index in range(60):
        scene = Scenes(60)[index]
        listed = scene.captions[0].split(" on ")[0].replace(" and ", ", ").split(", ")
        assert [name.split()[-1] for name in listed] == [SHAPES[number] for number in scene.classes]
        for name, mask in zip(listed, scene.masks, strict=True):
            mean = scene.image[:, mask].float().mean(1) / 255
            nearest = min(COLOURS, key=lambda colour: (torch.tensor(COLOURS[colour]) - mean).abs().sum())
            assert nearest == name.split()[1]


def test_relations_are_true():
    words = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
    checked = 0
    for index in range(100):
        scene = Scenes(100)[index]
        if len(scene.classes) < 2:
            continue
        axis, sign = next(way for word, way in words.items() if f" {word} " in scene.captions[2])
        centres = (scene.boxes[:, :2] + scene.boxes[:, 2:]) / 2
        assert (centres[0] - centres[1])[axis] * sign > 0
        checked += 1
    assert checked > 30


def test_questions_have_true_answers():
    for index in range(60):
        scene = Scenes(60)[index]
        asked = {question.text: question.answers[0] for question in scene.questions}
        assert 2 <= len(scene.questions) <= 4
        assert asked["how many shapes are there?"] == ("no", "one", "two", "three", "four")[len(scene.classes)]
        (shape,) = [(q.text, q.answers[0]) for q in scene.questions if q.text.startswith("what shape is ")]
        assert f"{shape[0][14:-1]} {shape[1]}" in scene.captions[0]


def test_all_shapes_grounds_and_counts_occur():
    scenes = [Scenes(300)[index] for index in range(300)]
    assert {int(number) for scene in scenes for number in scene.classes} == set(range(len(SHAPES)))
    assert {len(scene.classes) for scene in scenes} == {1, 2, 3, 4}
    assert len({scene.captions[0].split(" on ")[1] for scene in scenes}) == len(GROUNDS)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_cover_their_area_with_smooth_edges(shape):
    grid = torch.arange(64, dtype=torch.float32).numpy() + 0.5
    covered = coverage(Figure(shape, "red", "large", 32, 32, 20, 0.3), grid, grid)
    areas = {"circle": 3.1416, "square": 2.0, "triangle": 1.299, "star": 1.323, "ring": 2.356, "cross": 2.096, "diamond": 1.24}
    assert covered.sum() / 400 == pytest.approx(areas[shape], rel=0.02)
    assert ((covered > 0) & (covered < 1)).sum() > 40


def test_bad_sizes_and_counts_are_refused():
    with pytest.raises(ValueError, match="too small for generated scenes; use sides of at least 32"):
        Scenes(3, (16, 64))
    with pytest.raises(ValueError, match="number of scenes 0 must be at least 1"):
        Scenes(0)
