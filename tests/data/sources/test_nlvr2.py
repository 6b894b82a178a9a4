from __future__ import annotations

import json
import pickle

import pytest
from pictures_on_disk import picture, write_folder

from mae_vlm.data.collection import open_collection
from mae_vlm.data.sources import nlvr2
from mae_vlm.data.sources.base import Place
from mae_vlm.types import Question

HOST = "https://pictures.example/some/"


def row(identifier, sentence="both show a dog", label="True", **more):
    named = {"left_url": f"{HOST}{identifier}-a.jpg?size=1", "right_url": f"{HOST}{identifier}-b.jpg"}
    return {"identifier": identifier, "sentence": sentence, "label": label, "writer": 1, "synset": "dog", **named, **more}


def write(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(one) + "\n" for one in rows))


def pictures(*stems, folder=""):
    return [f"{folder}{stem}-img{side}.png" for stem in stems for side in (0, 1)]


def opened(root, **options):
    where = Place(str(root), (root,), **options)
    assert nlvr2.FORMAT.claims(where)
    return nlvr2.FORMAT.open(where), where.problems


def test_the_published_layout_gives_pairs_with_a_statement_by_part(tmp_path):
    write(tmp_path / "train.json", [row("train-7-0-0", directory=3), row("train-7-0-1", "one is red", "False", directory=3)])
    write(tmp_path / "dev.json", [row("dev-1-2-0")])
    write(tmp_path / "test1.json", [row("test1-5-1-0")])
    names = pictures("train-7-0", folder="images/train/3/") + pictures("dev-1-2", folder="dev/") + pictures("test1-5-1", folder="test1/")
    write_folder(tmp_path, names)
    found = open_collection(Place(str(tmp_path)))
    assert found.format == "nlvr2" and {part: len(source) for part, source in found.parts.items()} == {"train": 2, "val": 1, "test": 1}
    first, second = (pickle.loads(pickle.dumps(found.parts["train"]))[index] for index in (0, 1))
    assert (first.id, first.image, first.partner) == ("train-7-0-0", picture(0), picture(1))
    assert (second.image, second.partner) == (first.image, first.partner)
    assert first.questions == (Question("both show a dog", ("true",)),) and second.questions == (Question("one is red", ("false",)),)
    assert found.parts["val"][0].partner == picture(3) and found.parts["test"].name(0) == "test1-5-1-0"


@pytest.mark.parametrize("folder", ["", "images/", "pairs/", "images/pairs/"])
def test_one_file_of_any_name_finds_its_pictures(tmp_path, folder):
    write(tmp_path / "pairs.jsonl", [row("a-0-0")])
    write_folder(tmp_path, pictures("a-0", folder=folder))
    assert opened(tmp_path)[0]["all"][0].partner == picture(1)
    assert opened(tmp_path / "pairs.jsonl")[0]["all"][0].image == picture(0)


def test_pictures_may_be_called_as_their_addresses_or_as_files(tmp_path):
    write(tmp_path / "pairs.jsonl", [row("a-0-0")])
    write_folder(tmp_path, ["a-0-0-a.jpg", "a-0-0-b.jpg"])
    assert opened(tmp_path)[0]["all"][0].partner == picture(1)
    write(tmp_path / "pairs.jsonl", [row("b", left_url="one/x.png", right_url="two/y.png")])
    write_folder(tmp_path, ["one/x.png", "two/y.png"])
    assert opened(tmp_path)[0]["all"][0].image == picture(0)


def test_what_cannot_be_used_is_told_and_left_out(tmp_path):
    outside = row("d-0-0", left_url="../x.png", right_url="../x.png")
    rows = [row("a-0-0"), row("a-0-0"), row("b-0-0"), row("a-0-1", label="maybe"), row("a-0-2", sentence=" "), {"identifier": "c"}, outside]
    write(tmp_path / "data" / "pairs.jsonl", rows)
    write_folder(tmp_path / "data", pictures("a-0"))
    parts, problems = opened(tmp_path)
    assert [one.id for one in map(parts["all"].__getitem__, range(2))] == ["a-0-0", "a-0-1"] and len(parts["all"]) == 2
    assert parts["all"][1].questions == (Question("both show a dog", ()),)
    assert dict(problems.counts) == {
        "line without a statement about two pictures": 2,
        "statement listed again": 1,
        "missing picture": 4,
        "statement without a label": 1,
    }


def test_a_second_test_file_is_left_out_unless_it_is_named(tmp_path):
    for name in ("train", "test1", "test2"):
        write(tmp_path / f"{name}.json", [row(f"{name}-0-0")])
    write_folder(tmp_path, pictures("train-0", "test1-0", "test2-0"))
    parts, problems = opened(tmp_path)
    assert parts["test"].name(0) == "test1-0-0" and problems.counts == {"second file of a part": 1}
    parts, problems = opened(tmp_path, annotations=("train.json", "test2.json"))
    assert parts["test"].name(0) == "test2-0-0" and not problems


def test_mistakes_are_told(tmp_path):
    write(tmp_path / "pairs.jsonl", [row("a-0-0")])
    with pytest.raises(ValueError, match=r"none of the pictures of .*pairs.jsonl is there \(as a-0-img0.png or a-0-img1.png\)"):
        opened(tmp_path)
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row("a-0-0")) + "\n[1, 2]\n")
    with pytest.raises(ValueError, match=r"line 2 of .*pairs\.jsonl is no JSON object"):
        opened(tmp_path)
    assert not nlvr2.FORMAT.claims(Place("x", (write_folder(tmp_path / "other", ["a.png"]),)))
