"""Promises of tools.word_scenes and tools.words_worth."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import MACHINE, in_process

from mae_vlm.data.sources.parts.scene_drawing import COLOURS
from tools.word_scenes import PLACES, is_held_out, questions, scene, write
from tools.words_worth import KINDS, Places, Tally, changed, examine, kind_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("scenes")
    write(place, 40, 1, (1, 2))
    return place


def rows(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]


def test_a_scene_is_a_function_of_its_numbers_and_its_objects_are_apart():
    one, again, other = scene(1, 5, 2), scene(1, 5, 2), scene(1, 6, 2)
    assert one.caption == again.caption != other.caption
    assert np.array_equal(np.asarray(one.picture()), np.asarray(again.picture()))
    assert len({place for _, place in one.objects}) == 2


def test_pairs_of_colour_and_shape_are_held_out_or_not():
    for held_out in (False, True):
        objects = [figure for index in range(30) for figure, _ in scene(0, index, 2, held_out).objects]
        assert {is_held_out(figure.colour, figure.shape) for figure in objects} == {held_out}
    share = sum(is_held_out(colour, shape) for colour in COLOURS for shape in KINDS["shape"]) / 70
    assert share == pytest.approx(0.1)


def test_the_caption_says_where_the_colour_is():
    """The pixel at an object's centre, but for rings, is about its colour."""
    for index in range(40):
        told = scene(3, index, 2)
        pixels_HWC = np.asarray(told.picture()) / 255
        for figure, place in told.objects:
            assert f"a {figure.size} {figure.colour} {figure.shape} in the {place}" in told.caption
            assert PLACES[int(figure.y * 3 // 64) * 3 + int(figure.x * 3 // 64)] == place
            if figure.shape != "ring":
                assert np.abs(pixels_HWC[int(figure.y), int(figure.x)] - COLOURS[figure.colour]).max() < 0.15


def test_captions_of_a_gallery_differ_and_each_picture_is_there(folder):
    told = rows(folder)
    assert len({row["captions"][0] for row in told}) == 40
    assert all(Image.open(folder / row["image"]).size == (64, 64) for row in told)
    assert all(len(row["questions"]) == len(row["answers"]) == 4 for row in told)


def test_questions_have_the_answers_that_the_scene_gives():
    asked = {}
    for index in range(200):
        told = scene(0, index, 1 + index % 2)
        for question, answer in questions(told, np.random.default_rng(index)):
            words = question.split()
            begin = " ".join(words[:2])
            asked.setdefault(begin, []).append(answer)
            by_place = {place: figure for figure, place in told.objects}
            if "in the" in question:
                here = question.split("in the ")[1]
                longest = sorted(by_place, key=len, reverse=True)  # upper left before left
                figure = by_place[next(place for place in longest if here.startswith(place))]
                has = {figure.colour, figure.shape, figure.size}
                assert answer in has if begin != "is the" else (answer == "yes") == (here.split()[-2] in has)
            elif begin == "where is":
                assert (by_place[answer].colour, by_place[answer].shape) == (words[3], words[4])
            elif begin == "how many":
                assert answer == {1: "one", 2: "two"}[len(by_place)]
            else:
                assert answer in told.caption
    assert {*asked} == {"what colour", "what shape", "what size", "what is", "is the", "where is", "how many"}
    assert abs(asked["is the"].count("yes") / len(asked["is the"]) - 0.5) < 0.1


def test_a_changed_caption_differs_in_one_word_of_the_same_kind():
    caption = "a small red ring in the upper left on a striped ground"
    kinds = set()
    for number in range(60):
        (pair,) = [pair for pair in zip(caption.split(), changed(caption, number).split(), strict=True) if pair[0] != pair[1]]
        assert kind_of(pair[0]) == kind_of(pair[1])
        kinds.add(kind_of(pair[0]))
    assert kinds == {"colour", "shape", "size", "ground"}


def test_recall_and_what_was_missed_are_told():
    places, tally = Places(), Tally()
    places.images, places.texts = [torch.eye(3)], [torch.tensor([[1.0, 0, 0], [1.5, 0.5, 0], [0, 0, 1.0]])]
    places.captions = ["a small red ring", "a small blue ring", "a large red star"]
    places.tell(tally)
    found = tally.percent()
    assert found["text to image"] == found["image to text"] == pytest.approx(66.7)
    assert found["missed by colour"] == 100 and found["missed by shape"] == found["missed by size"] == 0


def options(name: str, **given) -> dict:
    return {"class_path": f"mae_vlm.{name}", "init_args": given}


OBJECTIVES = {
    "image_text": options("objectives.image_text.SoftmaxContrast"),
    "swapped_contrast": options("objectives.swapped_contrast.SwappedContrast"),
    "swapped_word": options("objectives.swapped_word.SwappedWord"),
    "masked_language": options("objectives.masked_language.MaskedLanguage", share=0.3),
    "blind": options("objectives.masked_language.MaskedLanguage", share=0.3, picture=False, weight=0.2),
}
PARTS = {
    "encoder": options("encoders.stemmed.StemmedVit", width=16, depth=1, heads=2, patch=8),
    "text": options("encoders.text.transformer.Transformer", width=16, depth=1, heads=2, length=32),
    "fusion": options("encoders.fusion.cross.CrossAttention", depth=1, heads=2),
    "masking": options("tokens.masking.RandomMask"),
    "objectives": OBJECTIVES,
    "optimizer": options("learners.optim.AdamW", base_lr=1e-3),
}


@pytest.mark.slow
def test_a_run_is_measured_with_every_word_and_pair(folder, tmp_path):
    config = tmp_path / "words.yaml"
    config.write_text(json.dumps({"model": options("learners.pretrain.Pretrainer", **PARTS)}))
    words = ["--config", config, "--data.path", folder, "--data.val_path", folder, "--data.image_size", "64", *MACHINE]
    words += ["--data.batch_size", "20", "--trainer.max_steps", "1", "--trainer.default_root_dir", tmp_path, "--name", "run"]
    assert in_process("fit", *words, "--probes.pictures", "0") == 0
    found = examine(str(tmp_path / "run" / "version_0" / "checkpoints" / "last.ckpt"), folder)
    assert found["pictures"] == 40
    told = {"text to image", "image to text", "swapped_word", "words", "words, another picture", "blind"}
    assert told | {f"words, {kind}" for kind in KINDS} <= {*found}
    assert all(0 <= found[name] <= 100 for name in told)
