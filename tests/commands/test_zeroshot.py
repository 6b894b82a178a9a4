"""Classes told by their names: through the real command line, and with hand-made embeddings."""

from __future__ import annotations

import csv

import pytest
import torch
from PIL import Image
from tiny_runs import TINY, in_process
from torch.nn import functional
from worded import WORDS, fit

from mae_vlm.index.pictures import Read
from mae_vlm.index.zeroshot import classify, places, read_templates
from mae_vlm.types import Broken


class Hand:
    """A model whose pictures say where they lie, and whose texts lie by their words."""

    words = (("red", 0), ("blue", 1), ("dark green", 2))

    def of_images(self, images_BCHW):
        return functional.normalize(images_BCHW.float().flatten(1)[:, :3], dim=1)

    def of_texts(self, texts):
        rows = [torch.eye(3)[next(number for word, number in self.words if word in text)] for text in texts]
        return torch.stack([row + (0.9 * torch.eye(3)[0] if "misleading" in text else 0) for row, text in zip(rows, texts, strict=True)])


def read(vectors, labels, broken=()):
    return Read(torch.tensor(vectors)[:, :, None, None], list(range(len(labels))), labels, list(broken))


def test_shares_and_table_are_those_counted_by_hand():
    vectors = [[9, 1, 0], [8, 0, 3], [0, 9, 1], [7, 2, 0], [0, 1, 9], [5, 0, 4]]
    parts = [read(vectors[:4], [0, 0, 1, 1], [Broken("bad", "why")]), read(vectors[4:], [2, -1])]
    tally = classify(Hand(), parts, str, ["red", "blue", "dark_green"], ["{}"])
    assert tally.labelled == 5 and tally.top1 == pytest.approx(4 / 5) and tally.top5 == 1.0
    assert tally.rows()[1:] == [
        ["red", "2", "1.0000", "1.0000", ""],
        ["blue", "2", "0.5000", "1.0000", "red (1)"],
        ["dark_green", "1", "1.0000", "1.0000", ""],
    ]
    assert len(tally.answers) == 6 and tally.answers[4][1][0][0] == "dark_green" and tally.broken == [Broken("bad", "why")]


def test_several_templates_are_averaged():
    one, other = places(Hand(), ["blue"], ["{}"]), places(Hand(), ["blue"], ["misleading {}"])
    both = places(Hand(), ["blue"], ["{}", "misleading {}"])
    assert torch.allclose(both, functional.normalize(one * 1 + torch.tensor([[0.9, 1.0, 0.0]]), dim=1), atol=1e-6)
    assert (both @ one.T).item() > (other @ one.T).item()


def test_a_template_has_one_place_for_the_name(tmp_path):
    file = tmp_path / "templates.txt"
    for text, message in (("a photo", "must have {} once"), ("\n", "no template is in it"), ("{} and {}", "must have {} once")):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_templates(file)
    file.write_text("a {}\n\nthe {}\n")
    assert read_templates(file) == ["a {}", "the {}"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("run"), "words", *WORDS)


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(("red_square", "blue_circle", "green_star")):
        place = tmp_path / "photos" / name
        place.mkdir(parents=True)
        for copy in range(2 + number):
            Image.new("RGB", (40, 40), (80 * number, 10 * copy, 0)).save(place / f"{copy}.png")
    (tmp_path / "photos" / "red_square" / "bad.png").write_bytes(b"nothing")
    return tmp_path / "photos"


def test_names_come_from_the_folders_and_answers_go_to_files(run, folder, tmp_path, capsys):
    capsys.readouterr()
    words = ["--data.path", folder, "--workers", "0", "--device", "cpu"]
    assert in_process("zeroshot", run, *words, "--out", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "9 labelled pictures of 3 classes, 4 templates" in said and "left out: red_square/bad.png" in said
    table = list(csv.DictReader((tmp_path / "out" / "classes.csv").open()))
    assert [(row["class"], row["pictures"]) for row in table] == [("blue_circle", "3"), ("green_star", "4"), ("red_square", "2")]
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").open()))
    right = sum(row["class_1"] == row["id"].split("/")[0] for row in rows)
    assert len(rows) == 9 and f"top1 {right / 9:.4f} " in said


def test_generated_scenes_and_pictures_without_labels(run, tmp_path, capsys):
    assert in_process("zeroshot", run, "--workers", "0", "--device", "cpu", "--batch-size", "250") == 0
    assert "1,000 labelled pictures of 7 classes" in capsys.readouterr().out
    Image.new("RGB", (40, 40)).save(tmp_path / "one.png")
    words = ["--data.path", tmp_path, "--classes", "cat", "dog", "--workers", "0", "--device", "cpu", "--out", tmp_path / "out"]
    assert in_process("zeroshot", run, *words) == 0
    assert "none with a label" in capsys.readouterr().out and (tmp_path / "out" / "predictions.csv").is_file()


def test_mistakes_are_told_in_one_line(run, folder, tmp_path, capsys):
    plain = fit(tmp_path, "default", *TINY)
    wrong = [
        ([plain], "was trained without words"),
        ([run, "--data.path", folder, "--classes", "cat"], "--classes names 1, the collection has 3 classes"),
        ([run, "--data.path", folder, "--part", "test"], "has no such part"),
        ([run, "--data.path", folder / "red_square"], "has no classes; name some with --classes"),
        ([run, "--data.path", tmp_path / "nowhere"], "nowhere"),
        ([run, "--templates", tmp_path / "nothing.txt"], "nothing.txt"),
        ([tmp_path / "nowhere"], "no checkpoint there"),
    ]
    for words, message in wrong:
        capsys.readouterr()
        assert in_process("zeroshot", *words) == 1, words
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1 and message in said[0], said
