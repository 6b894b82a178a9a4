"""index and search through the real command line: words, pictures, kills, growth, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_runs import TINY, in_process
from worded import WORDS, fit

from mae_vlm.commands import index as command
from mae_vlm.index import build
from mae_vlm.index.model import Model, of_run

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "white": (250, 250, 250), "black": (5, 5, 5)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with words."""
    return fit(tmp_path_factory.mktemp("run"), "words", *WORDS)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run of pictures alone."""
    return fit(tmp_path_factory.mktemp("plain"), "default", *TINY)


@pytest.fixture
def folder(tmp_path):
    """Pictures of plain colours in sub-folders, each of another size; one that is broken."""
    place = tmp_path / "photos"
    for number, (name, colour) in enumerate(COLOURS.items()):
        file = place / ("warm" if number % 2 else "cold") / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40 + 8 * number, 48), colour).save(file)
    (place / "cold" / "broken.jpg").write_bytes(b"no picture at all")
    return place


def make(folder, run, out, *options) -> int:
    return in_process("index", folder, "--weights", run, "--out", out, "--workers", "0", "--device", "cpu", *options)


def found(capsys, *words) -> list[tuple[float, str]]:
    capsys.readouterr()
    assert in_process("search", *words) == 0
    return [(float(score), path) for score, path in re.findall(r"^(-?\d\.\d+)  (.*)$", capsys.readouterr().out, re.MULTILINE)]


def test_words_find_pictures_by_the_towers_of_the_run_also_after_it_has_gone(run, folder, tmp_path, capsys):
    copy, out = tmp_path / "copy", tmp_path / "index"
    shutil.copytree(run, copy)
    assert make(folder, copy, out) == 0
    said = capsys.readouterr().out
    assert "5 pictures (5 new, 0 gone or changed), 16 numbers each, flat float16" in said
    assert "left out: cold/broken.jpg:" in said and "broken.jpg" in (out / "broken.csv").read_text()
    shutil.rmtree(copy)
    hits = found(capsys, out, "a red square", "--top", "3")
    assert len(hits) == 3 and [score for score, _ in hits] == sorted((score for score, _ in hits), reverse=True)
    assert all(Path(path).is_file() for _, path in hits)
    assert {path for _, path in found(capsys, out, "a red square", "--top", "99")} == {str(f) for f in folder.rglob("*.png")}


def test_scores_are_the_cosines_of_the_runs_own_head(run, folder, tmp_path, capsys):
    assert make(folder, run, tmp_path / "index", "--store", "float32") == 0
    hits = {path: score for score, path in found(capsys, tmp_path / "index", "a blue circle")}
    model = of_run(run)
    for file in folder.rglob("*.png"):
        cosine = (model.of_images(model.seen(file.read_bytes(), "")[None]) @ model.of_texts(["a blue circle"]).T).item()
        assert hits[str(file)] == pytest.approx(cosine, abs=1e-3)


def test_a_picture_finds_itself_first_also_of_a_run_without_words(plain, folder, tmp_path, capsys):
    assert make(folder, plain, tmp_path / "index") == 0
    for name in ("red", "white"):
        file = next(folder.rglob(f"{name}.png"))
        score, path = found(capsys, tmp_path / "index", "--picture", file)[0]
        assert path == str(file) and score == pytest.approx(1.0, abs=0.01)


def test_the_page_holds_the_pictures_and_nothing_from_elsewhere(run, folder, tmp_path, capsys):
    assert make(folder, run, tmp_path / "index") == 0
    next(folder.rglob("red.png")).unlink()
    page = tmp_path / "deep" / "answer.html"
    found(capsys, tmp_path / "index", "a <b>red</b> square", "--page", page)
    text = page.read_text()
    assert text.count("data:image/jpeg;base64,") == 4 and "the file is gone" in text
    assert "<b>red</b>" not in text and "&lt;b&gt;red&lt;/b&gt;" in text
    assert not re.search(r'(src|href)="(?!data:|#)', text) and "<script" not in text
    found(capsys, tmp_path / "index", "a red square")
    assert (tmp_path / "index" / "search.html").is_file()


def test_only_what_came_or_changed_is_computed_again(run, folder, tmp_path, capsys):
    out = tmp_path / "index"
    assert make(folder, run, out) == 0
    capsys.readouterr()
    assert make(folder, run, out) == 0
    said = capsys.readouterr().out
    assert "5 of 6 pictures are indexed already" in said and "5 pictures (0 new, 0 gone or changed)" in said
    before = {file: file.read_bytes() for file in (out / "parts").iterdir()}
    Image.new("RGB", (40, 40), (200, 200, 0)).save(folder / "warm" / "yellow.png")
    Image.new("RGB", (30, 30), (9, 9, 9)).save(next(folder.rglob("white.png")))
    next(folder.rglob("red.png")).unlink()
    assert make(folder, run, out) == 0
    assert "5 pictures (2 new, 2 gone or changed)" in capsys.readouterr().out
    assert len(before) == 1 and len(list((out / "parts").iterdir())) == 2
    assert {Path(path).stem for _, path in found(capsys, out, "a red square")} == {"yellow", "white", "green", "blue", "black"}


def test_an_index_that_was_killed_goes_on_and_is_what_an_undisturbed_one_is(run, folder, tmp_path, capsys, monkeypatch):
    out, whole = tmp_path / "index", tmp_path / "whole"
    monkeypatch.setattr(build, "_ROWS", 1)  # a part for each batch
    of_images, calls = Model.of_images, []

    def dies(model, images):
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return of_images(model, images)

    with monkeypatch.context() as patch:
        patch.setattr("mae_vlm.index.model.Model.of_images", dies)
        assert make(folder, run, out, "--batch-size", "2") == 130
    assert in_process("search", out, "a red square") == 1
    assert "is not finished: call index again to go on" in capsys.readouterr().err
    assert make(folder, run, out, "--batch-size", "2") == 0
    assert "of 6 pictures are indexed already" in capsys.readouterr().out
    assert make(folder, run, whole) == 0
    assert found(capsys, out, "two stars") == found(capsys, whole, "two stars")


def test_what_was_computed_before_a_kill_is_asked_after_the_next_call(run, folder, tmp_path, capsys, monkeypatch):
    out = tmp_path / "index"
    assert make(folder, run, out) == 0
    next(folder.rglob("red.png")).rename(folder / "warm" / "scarlet.png")
    with monkeypatch.context() as patch:
        patch.setattr("mae_vlm.index.structure.build", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert make(folder, run, out) == 130
    assert "red" in {Path(path).stem for _, path in found(capsys, out, "a red square")}  # the old one is whole
    assert make(folder, run, out) == 0
    assert {Path(path).stem for _, path in found(capsys, out, "a red square")} == {"scarlet", "white", "green", "blue", "black"}


def test_the_folder_may_move(run, folder, tmp_path, capsys):
    out, elsewhere = tmp_path / "index", tmp_path / "elsewhere"
    assert make(folder, run, out) == 0
    shutil.move(folder, elsewhere)
    assert make(elsewhere, run, out) == 0
    assert "(0 new, 0 gone or changed)" in capsys.readouterr().out
    assert all(path.startswith(str(elsewhere)) for _, path in found(capsys, out, "a star"))


def test_a_bare_index_asks_for_its_run_and_takes_no_other(run, folder, tmp_path, capsys):
    out, other = tmp_path / "index", fit(tmp_path, "words", *WORDS, "--seed_everything", "1")
    assert make(folder, run, out, "--bare") == 0
    capsys.readouterr()
    for words, message in (([], "does not carry its model"), (["--weights", other], "is not what made this index")):
        assert in_process("search", out, "a star", *words) == 1
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1 and message in said[0]
    assert found(capsys, out, "a star", "--weights", run)
    assert make(folder, other, out) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "was made by" in said[0] and "or another --out" in said[0]


@pytest.mark.parametrize("store", ["float16", "int8"])
@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_every_structure_finds_a_picture_by_itself(kind, store, run, folder, tmp_path, capsys):
    assert make(folder, run, tmp_path / "index", "--structure", kind, "--store", store) == 0
    assert f"{kind} {store}" in capsys.readouterr().out
    assert len(found(capsys, tmp_path / "index", "a star", "--exact")) == 5


def test_mistakes_are_told_in_one_line(run, plain, folder, tmp_path, capsys):
    out = tmp_path / "index"
    assert make(folder, plain, out) == 0
    (tmp_path / "note.txt").write_text("mine")
    wrong = [
        (["search", out, "a star"], "trained without words; ask with --picture FILE"),
        (["search", out, "--picture", tmp_path / "note.txt"], "note.txt"),
        (["search", out, "--picture", tmp_path / "nothing.png"], "No such file"),
        (["search", tmp_path, "a star"], "is not an index"),
        (["search", tmp_path / "nowhere", "a star"], "is not an index"),
        (["index", folder, "--weights", tmp_path, "--out", tmp_path / "new"], "no checkpoint there"),
        (["index", tmp_path / "nowhere", "--weights", run, "--out", tmp_path / "new"], "is not there"),
        (["index", folder, "--weights", run, "--out", tmp_path], "holds something else than an index"),
        (["index", folder, "--weights", run, "--out", out], "was made by"),
    ]
    capsys.readouterr()
    for words, message in wrong:
        assert in_process(*words) == 1, words
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1 and said[0].startswith("mae_vlm: error: ") and message in said[0], said
    mark = json.loads((out / "index.json").read_text())
    (out / f"vectors_{mark['version']}.faiss").write_bytes(b"cut")
    assert in_process("search", out, "--picture", next(folder.rglob("red.png"))) == 1
    assert "is damaged" in capsys.readouterr().err


def test_without_faiss_one_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert command.main(["somewhere", "--weights", "run", "--out", "index"]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "pip install 'mae_vlm[search]'" in said[0]


def test_a_large_set_finds_nearly_all_of_the_true_nearest():
    from mae_vlm.index import structure

    draw = np.random.default_rng(0)
    centres = draw.normal(size=(50, 16))
    rows = (centres[draw.integers(0, 50, 4000)] + 0.3 * draw.normal(size=(4000, 16))).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    for kind in ("ivf", "hnsw", "flat"):
        built = structure.build(lambda: iter(np.split(rows, 4)), 16, 4000, kind, "float16")
        assert built.found >= 0.95 and built.index.ntotal == 4000, kind
        true = np.argsort(-(rows[:20] @ rows.T), axis=1)[:, :10]
        seen = built.index.search(rows[:20], 10)[1]
        assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(seen, true, strict=True)]) >= 0.9
