"""Promises of mae_vlm.callbacks.predicted_words and of what is drawn of words."""

from __future__ import annotations

import csv
from types import SimpleNamespace

import torch

from mae_vlm.callbacks import predicted_words
from mae_vlm.callbacks.predicted_drawings import drawn
from mae_vlm.heads.parts.word_drawing import with_words
from mae_vlm.types import Prediction, Said

FIRST = Prediction("a, b.png", said=(Said('yes "sir"', 0.25, "is it,\nred?"), Said("二", 0.5, "几?")))
SILENT = Prediction("ünï.png", said=())
CAPTION = Prediction("c.png", said=(Said("a cat", 0.5),))


def test_answers_of_several_processes_become_one_table_a_picture_written_twice_counting_once(tmp_path):
    parts = [tmp_path / "answer.0.part.said", tmp_path / "answer.1.part.said"]
    parts[0].write_text(predicted_words.line(FIRST) + predicted_words.line(SILENT))
    parts[1].write_text(predicted_words.line(FIRST))
    assert predicted_words.ids(parts[0]) == {"a, b.png", "ünï.png"}, "also where nothing was said: it is done"
    assert predicted_words.write_table(parts, tmp_path / "predictions.csv", SimpleNamespace(column="answer")) == 2
    with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["id", "question", "answer", "score"],
        ["a, b.png", "is it,\nred?", 'yes "sir"', "0.250000"],
        ["a, b.png", "几?", "二", "0.500000"],
    ]


def test_captions_have_no_question(tmp_path):
    part = tmp_path / "caption.0.part.said"
    part.write_text(predicted_words.line(CAPTION))
    predicted_words.write_table([part], tmp_path / "predictions.csv", SimpleNamespace(column="caption"))
    assert (tmp_path / "predictions.csv").read_text() == "id,caption,score\nc.png,a cat,0.500000\n"


def test_words_stand_below_the_picture_which_stays_as_it_is():
    image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plain, told = with_words(image, []), drawn(CAPTION, image, None, SimpleNamespace())
    longer = with_words(image, ["a word and another " * 20])
    assert torch.equal(told[:, :320], plain[:, :320]) and told.shape[2] == 480
    assert (told[:, 320:] < 128).any() and (plain[:, 320:] == 255).all() and longer.shape[1] > told.shape[1]


def test_a_grey_picture_of_16_bits_is_drawn_too():
    image = torch.full((1, 600, 500), 65535, dtype=torch.uint16)
    assert with_words(image, ["white"])[:, 0, 0].tolist() == [255] * 3
