from __future__ import annotations

import json
import pickle

import pytest
from pictures_on_disk import picture, write_folder

from mae_vlm.data.collection import open_collection
from mae_vlm.data.sources import vcr
from mae_vlm.data.sources.base import Place
from mae_vlm.types import Question

ANSWERS = [["[0] is sad", "."], ["Yes", ",", [0], "'s", "cup", "."], ["No"], ["It", "is", [2]]]


def row(image="film/1.png", **more):
    return {
        "img_fn": image,
        "objects": ["person", "person", "cup", "chair", "chair"],
        "question": ["Why", "do", [0, 1], "want", [2], "and", [4], "?"],
        "answer_choices": ANSWERS,
        "answer_label": 1,
        "rationale_choices": [["because"], [[1], "doesn", "n't", "smile"]],
        "rationale_label": 1,
        "annot_id": "train-0",
        **more,
    }


def write(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows), encoding="utf-8")


def opened(root, **options):
    where = Place(str(root), (root,), **options)
    assert vcr.FORMAT.claims(where)
    return vcr.FORMAT.open(where), where.problems


def test_objects_become_words_and_the_reason_is_asked_for_after_the_right_answer():
    asked, why = vcr.questions(row())
    choices = ("[0] is sad.", "Yes, person 1's cup.", "No", "It is cup")
    assert asked == Question("Why do person 1 and person 2 want cup and chair 2?", ("Yes, person 1's cup.",), choices)
    assert why.text == f"{asked.text} Yes, person 1's cup." and why.rationale and why.answers == (why.choices[1],)
    assert why.choices == ("because", "person 2 doesnn't smile")


def test_the_published_layout_gives_each_picture_with_all_its_questions(tmp_path):
    write(tmp_path / "vcr1annots" / "train.jsonl", [row(), row("film/2.png", question=["Wo", "ist", "Käse", "?"]), row(answer_label=0)])
    test = {key: value for key, value in row("film/3.png").items() if key not in ("answer_label", "rationale_label")}
    write(tmp_path / "vcr1annots" / "test.jsonl", [test])
    write(tmp_path / "vcr1annots" / "val.jsonl", [row("film/3.png")])
    write_folder(tmp_path / "vcr1images", ["film/1.png", "film/2.png", "film/3.png"])
    found = open_collection(Place(str(tmp_path)))
    assert found.format == "vcr" and {part: len(source) for part, source in found.parts.items()} == {"train": 2, "val": 1, "test": 1}
    train = pickle.loads(pickle.dumps(found.parts["train"]))
    first, second = train[0], train[1]
    assert (first.id, first.image, [one.rationale for one in first.questions]) == ("film/1.png", picture(0), [False, True, False, True])
    assert first.questions[2].answers == ("[0] is sad.",) and second.questions[0].text == "Wo ist Käse?"
    (hidden,) = found.parts["test"][0].questions
    assert hidden.answers == () and len(hidden.choices) == 4, "nobody tells the answer, so no reason for it can be asked for"


def test_what_cannot_be_used_is_told_and_left_out(tmp_path):
    wrong = [row(question=[[9]]), row(answer_label=7), row(objects=None), row("gone/1.png"), row("../1.png")]
    write(tmp_path / "train.jsonl", [row(), *wrong])
    write_folder(tmp_path, ["film/1.png"])
    parts, problems = opened(tmp_path)
    assert len(parts["all"]) == 1 and len(parts["all"][0].questions) == 2
    assert dict(problems.counts) == {"question not of VCR's form": 3, "missing picture": 2}
    with pytest.raises(IndexError):
        parts["all"][1]


def test_mistakes_are_told(tmp_path):
    write(tmp_path / "train.jsonl", [row()])
    with pytest.raises(ValueError, match=r"none of the pictures of .*train.jsonl is there \(as film/1.png\)"):
        opened(tmp_path)
    write_folder(tmp_path, ["film/1.png"])
    source = opened(tmp_path)[0]["all"]
    write(tmp_path / "train.jsonl", [row("other/longer/name.png")])
    (tmp_path / "train.jsonl").write_text("\n")
    with pytest.raises(ValueError, match=r"byte 0 of .* is no JSON object"):
        source[0]
