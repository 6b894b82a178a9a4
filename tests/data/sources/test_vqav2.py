from __future__ import annotations

import json
import pickle

import pytest
from pictures_on_disk import picture, write_folder

from mae_vlm.data.sources import vqav2
from mae_vlm.data.sources.base import Place
from mae_vlm.types import Question

QUESTIONS, ANNOTATIONS = "v2_OpenEnded_mscoco_{}_questions.json", "v2_mscoco_{}_annotations.json"


def question(id, image, text="what?"):
    return {"question_id": id, "image_id": image, "question": text}


def annotation(id, *answers):
    told = [{"answer": text, "answer_confidence": "yes", "answer_id": number} for number, text in enumerate(answers)]
    return {"question_id": id, "image_id": 1, "answers": told, "multiple_choice_answer": answers[0] if answers else ""}


def write(root, subset, questions, annotations=None, folder=None, names=(QUESTIONS, ANNOTATIONS)):
    """The pair of one subset; folder None: no pictures."""
    root.mkdir(exist_ok=True)
    asked, told = (name.format(subset) for name in names)
    (root / asked).write_text(json.dumps({"info": {}, "data_subtype": subset, "questions": questions}))
    if annotations is not None:
        (root / told).write_text(json.dumps({"info": {}, "annotations": annotations, "data_subtype": subset}))
    if folder is not None:
        pictures = subset.replace("-dev", "")
        write_folder(root / folder, [f"COCO_{pictures}_{image:012d}.png" for image in sorted({one["image_id"] for one in questions})])


def opened(root, **options):
    where = Place(str(root), (root,), **options)
    assert vqav2.FORMAT.claims(where)
    return vqav2.FORMAT.open(where), where.problems.counts


@pytest.mark.parametrize("folder", ["train2014", "images", "images/train2014", ""])
def test_questions_and_annotations_are_joined_by_picture(tmp_path, folder):
    answers = [annotation(92, "cat"), annotation(90, *["yes"] * 7, *["no"] * 3), annotation(91, "two", "2")]
    write(tmp_path, "train2014", [question(90, 9), question(91, 4, "how many?"), question(92, 9, "who?")], answers, folder)
    parts, problems = opened(tmp_path)
    found = {one.id.rpartition("_")[2]: one for one in map(parts["all"].__getitem__, range(2))}
    assert found["000000000009.png"].questions == (Question("what?", ("yes",) * 7 + ("no",) * 3), Question("who?", ("cat",)))
    assert found["000000000004.png"].questions == (Question("how many?", ("two", "2")),)
    assert found["000000000004.png"].image == picture(0) and not problems


def test_the_official_names_tell_the_parts_and_test_has_no_answers(tmp_path):
    write(tmp_path, "train2014", [question(10, 1)], [annotation(10, "a")], "train2014")
    write(tmp_path, "val2014", [question(20, 2)], [annotation(20, "b")], "val2014")
    write(tmp_path, "test2015", [question(30, 3), question(40, 4)], None, "test2015")
    write(tmp_path, "test-dev2015", [question(30, 3)])
    parts, problems = opened(tmp_path)
    assert {name: [part[i].questions for i in range(len(part))] for name, part in parts.items()} == {
        "train": [(Question("what?", ("a",)),)],
        "val": [(Question("what?", ("b",)),)],
        "test": [(Question("what?", ()),), (Question("what?", ()),)],
    }
    assert not problems


def test_one_pair_under_any_name_is_a_collection(tmp_path):
    write(tmp_path, "x", [question(10, 1)], [annotation(10, "a")], "images", ("questions.json", "annotations.json"))
    assert opened(tmp_path)[0]["all"][0].questions == (Question("what?", ("a",)),)


def test_the_questions_file_itself_can_be_the_path(tmp_path):
    write(tmp_path, "train2014", [question(10, 1)], [annotation(10, "a")], "train2014")
    write(tmp_path, "test-dev2015", [question(30, 3)], None, "test2015")
    for subset, answers in (("train2014", ("a",)), ("test-dev2015", ())):
        source = opened(tmp_path / QUESTIONS.format(subset))[0]["all"]
        assert [one.answers for one in source[0].questions] == [answers] and len(source) == 1


def test_what_cannot_be_used_is_counted_and_the_picture_stays(tmp_path):
    asked = [question(1, 1), question(1, 1), question(2, 2), question(3, 2, " "), {"question_id": 5}]
    write(tmp_path, "val2014", asked[:4], [annotation(1, "a"), annotation(1, "b"), annotation(3, "c"), annotation(9, "d")], "val2014")
    write(tmp_path, "val2014", [*asked, question(4, 77)])
    parts, problems = opened(tmp_path)
    source = parts["all"]
    assert {source.name(i)[-5:-4]: source[i].questions for i in range(2)} == {"1": (Question("what?", ("a",)),), "2": ()}
    assert problems == {
        "question listed again": 1,
        "question without id, picture or text": 1,
        "question without answer": 2,
        "empty question": 1,
        "annotation listed again": 1,
        "annotation without question": 1,
        "missing picture": 1,
    }


def test_training_questions_without_their_annotations_are_told(tmp_path):
    write(tmp_path, "train2014", [question(10, 1)], None, "train2014")
    parts, problems = opened(tmp_path)
    assert parts["all"][0].questions == (Question("what?", ()),) and problems == {"no file of annotations": 1}


def test_questions_without_their_pictures_are_not_claimed_and_refused_when_asked_for(tmp_path):
    write(tmp_path, "train2014", [question(10, 1)], [annotation(10, "a")])
    where = Place(str(tmp_path), (tmp_path,))
    assert not vqav2.FORMAT.claims(where)
    with pytest.raises(ValueError, match=r"none of the pictures of .*train2014_questions\.json is in .* \(looked in train2014, train,"):
        vqav2.FORMAT.open(where)


def test_a_place_without_questions_is_refused(tmp_path):
    write_folder(tmp_path, ["a.png"])
    (tmp_path / "instances.json").write_text('{"images": [], "annotations": []}')
    where = Place(str(tmp_path), (tmp_path,))
    assert not vqav2.FORMAT.claims(where)
    with pytest.raises(ValueError, match=r"must hold one file of VQAv2 questions for each part, has none; name it by data\.annotations"):
        vqav2.FORMAT.open(where)


def test_a_source_survives_pickling(tmp_path):
    write(tmp_path, "train2014", [question(10, 1)], [annotation(10, "a")], "train2014")
    source = opened(tmp_path)[0]["all"]
    assert pickle.loads(pickle.dumps(source))[0] == source[0]


def test_answers_in_another_form_are_counted_and_surrogates_replaced(tmp_path):
    odd = {"question_id": 2, "answers": ["yes", "no"]}
    asked = [question(1, 7, "what \ud83d?"), question(2, 7), question(1 << 70, 7)]
    write(tmp_path, "train2014", asked, [annotation(1, "a \udc00"), odd], "train2014")
    parts, counts = opened(tmp_path)
    assert parts["all"][0].questions == (Question("what ??", ("a ?",)),)
    assert counts["answers are no list of objects"] == 1 and counts["question without id, picture or text"] == 1


def test_without_a_train_part_all_parts_are_one(tmp_path):
    write(tmp_path, "val2014", [question(1, 7)], [annotation(1, "a")], "val2014")
    write(tmp_path, "test2015", [question(2, 8)], None, "test2015")
    parts, _ = opened(tmp_path)
    assert {name: len(part) for name, part in parts.items()} == {"all": 2}
