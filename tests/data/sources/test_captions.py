from __future__ import annotations

import json

import pytest
from pictures_on_disk import SHARED, write_folder

from mae_vlm.data.sources import captions
from mae_vlm.data.sources.base import Columns, Place

TWO = {"a.png": ("one", "two"), "b.png": ("three",)}


def place(root, **options):
    return Place(str(root), (root,), **options)


def captions_of(root, **options):
    where = place(root, **options)
    assert captions.FORMAT.claims(where)
    source = captions.FORMAT.open(where)["all"]
    return {source.name(i): source[i].captions for i in range(len(source))}, where.problems.counts


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.jsonl", '{"image": "a.png", "captions": ["one", "two"]}\n{"image": "b.png", "captions": ["three"]}\n'),
        ("c.jsonl", '{"image": "a.png", "caption": "one"}\n{"image": "b.png", "caption": "three"}\n{"image": "a.png", "caption": "two"}\n'),
        (
            "c.jsonl",
            '{"image": "a.png", "sentences": [{"raw": "one"}, {"raw": "two"}]}\n{"image": "b.png", "sentences": [{"raw": "three"}]}\n',
        ),
        ("c.json", '[{"image": "a.png", "caption": ["one", "two"]}, {"image": "b.png", "caption": ["three"]}]'),
        ("c.csv", "file,caption_0,caption_1\na.png,one,two\nb.png,three,\n"),
        ("captions.txt", "image,caption\na.png,one\na.png,two\nb.png,three\n"),
        ("Flickr8k.token.txt", "a.png#0\tone\na.png#1\ttwo\nb.png#0\tthree\n"),
    ],
)
def test_every_form_gives_the_same_captions(tmp_path, name, text):
    write_folder(tmp_path / "images", ["a.png", "b.png"])
    (tmp_path / name).write_text(text)
    found, problems = captions_of(tmp_path)
    assert found == TWO and problems == ({"empty caption": 1} if "caption_0" in text else {})


def test_a_quote_in_a_token_list_is_a_letter(tmp_path):
    write_folder(tmp_path, ["a.png"])
    (tmp_path / "t.token").write_text('a.png#0\ta 5" pipe\na.png#1\t"so" he said\n')
    assert captions_of(tmp_path)[0] == {"a.png": ('a 5" pipe', '"so" he said')}


def test_empty_captions_and_missing_pictures_are_counted_and_the_picture_stays(tmp_path):
    write_folder(tmp_path, ["a.png", "b.png"])
    rows = [("a.png", ["", "  ", "one"]), ("b.png", []), ("z.png", ["two"]), ("b.png", None)]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"image": image, "captions": said}) + "\n" for image, said in rows))
    found, problems = captions_of(tmp_path)
    assert found == {"a.png": ("one",), "b.png": ()} and problems == {"empty caption": 2, "missing picture": 1}


def test_letters_of_all_languages_come_through(tmp_path):
    write_folder(tmp_path, ["é 猫.png"])
    line = json.dumps({"image": "é 猫.png", "caption": "ein süßes Kätzchen\u2028猫 🐈"}, ensure_ascii=False)
    for name, text in (("c.jsonl", line + "\n"), ("d.json", f"[{line}]")):
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert captions_of(tmp_path, annotations=(name,))[0] == {"é 猫.png": ("ein süßes Kätzchen\u2028猫 🐈",)}


def test_the_column_can_be_named(tmp_path):
    write_folder(tmp_path, ["a.png"])
    (tmp_path / "c.jsonl").write_text('{"image": "a.png", "caption": "one", "alt": "two"}\n')
    assert captions_of(tmp_path, columns=Columns(caption="alt"))[0] == {"a.png": ("two",)}


def test_lists_without_captions_are_refused(tmp_path):
    write_folder(tmp_path, ["a.png"])
    (tmp_path / "c.jsonl").write_text('{"image": "a.png", "label": 3}\n')
    assert not captions.FORMAT.claims(place(tmp_path))
    with pytest.raises(ValueError, match=r"holds no list of pictures with captions that are there; write one \(\.csv"):
        captions.FORMAT.open(place(tmp_path))


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data sets are not beside this checkout")
def test_captions_of_pictures_inside_a_tar_are_not_claimed():
    assert not captions.FORMAT.claims(place(SHARED / "flickr8k-sub" / "train"))
