from __future__ import annotations

import json

import pytest
import torch
from pictures_on_disk import SHARED, write_folder

from mae_vlm.data.collate import Ready, collate
from mae_vlm.data.sampler import Draw
from mae_vlm.data.sources import qa
from mae_vlm.data.sources.base import Columns, Place
from mae_vlm.types import Question, Sample


def place(root, **options):
    return Place(str(root), (root,), **options)


def asked(root, **options):
    where = place(root, **options)
    assert qa.FORMAT.claims(where)
    source = qa.FORMAT.open(where)["all"]
    return {source.name(i): source[i].questions for i in range(len(source))}, where.problems.counts


def write(root, rows):
    write_folder(root, ["a.png", "b.png"])
    (root / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def test_all_questions_about_a_picture_are_one_sample(tmp_path):
    rows = [("a.png", "what?", "cat"), ("b.png", "how many?", "2"), ("a.png", "where?", "here")]
    found, problems = asked(write(tmp_path, [{"image": i, "question": q, "answer": a} for i, q, a in rows]))
    assert found == {"a.png": (Question("what?", ("cat",)), Question("where?", ("here",))), "b.png": (Question("how many?", ("2",)),)}
    assert not problems


def test_lists_in_a_row_are_several_questions(tmp_path):
    rows = [
        {"image": "a.png", "questions": ["what?", "where?"], "answers": ["cat", "here"]},
        {"image": "b.png", "questions": ["who?"], "answers": ["I"]},
    ]
    assert asked(write(tmp_path, rows))[0]["a.png"] == (Question("what?", ("cat",)), Question("where?", ("here",)))
    rows = [{"image": "a.png", "questions": ["what?", "where?"], "answers": [["cat", "cat"], ["here"]]}]
    assert asked(write(tmp_path, rows))[0]["a.png"] == (Question("what?", ("cat", "cat")), Question("where?", ("here",)))


@pytest.mark.parametrize("answers", [["pen", "pencil"], [{"answer": "pen", "id": 1}, {"answer": "pencil", "id": 2}]])
def test_the_answer_wins_over_its_parts_unless_they_are_asked_for(tmp_path, answers):
    write(tmp_path, [{"image": "a.png", "question": "what?", "answer": "pen, pencil", "answers": answers}])
    assert asked(tmp_path)[0]["a.png"][0].answers == ("pen, pencil",)
    assert asked(tmp_path, columns=Columns(answer="answers"))[0]["a.png"][0].answers == ("pen", "pencil")
    write(tmp_path, [{"image": "a.png", "question": "what?", "answers": answers}])
    assert asked(tmp_path)[0]["a.png"][0].answers == ("pen", "pencil")


def test_numbers_are_answers(tmp_path):
    assert asked(write(tmp_path, [{"image": "a.png", "question": "how many?", "answer": 3}]))[0]["a.png"][0].answers == ("3",)


def test_questions_nobody_has_answered_have_no_answers(tmp_path):
    assert asked(write(tmp_path, [{"image": "a.png", "question": "what?"}]))[0]["a.png"] == (Question("what?", ()),)


def test_what_cannot_be_used_is_counted_and_the_picture_stays(tmp_path):
    rows = [("a.png", "what?", "cat"), ("b.png", "where?", None), ("b.png", "", "x"), ("b.png", "who?", " "), ("z.png", "what?", "x")]
    found, problems = asked(write(tmp_path, [{"image": i, "question": q, "answer": a} for i, q, a in rows]))
    assert found == {"a.png": (Question("what?", ("cat",)),), "b.png": ()}
    assert problems == {"question without answer": 2, "empty question": 1, "missing picture": 1}


def test_lists_of_two_lengths_are_a_problem(tmp_path):
    rows = [
        {"image": "a.png", "questions": ["what?", "where?"], "answers": ["cat"]},
        {"image": "b.png", "questions": ["who?"], "answers": ["I"]},
    ]
    found, problems = asked(write(tmp_path, rows))
    assert found == {"a.png": (), "b.png": (Question("who?", ("I",)),)} and problems == {"questions and answers differ in number": 1}


def test_answers_need_their_question(tmp_path):
    (file,) = [write(tmp_path, [{"image": "a.png", "answer": "cat"}]) / "qa.jsonl"]
    assert not qa.FORMAT.claims(place(tmp_path))
    with pytest.raises(
        ValueError, match=r"data\.answer_column answer of qa\.jsonl needs data\.question_column; its columns are image, answer"
    ):
        qa.open_lists(place(file, columns=Columns(answer="answer")))


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data sets are not beside this checkout")
@pytest.mark.parametrize(("part", "pictures", "questions", "answers"), [("train", 660, 5_647, 868), ("val", 134, 1_148, None)])
def test_daquar_has_the_counts_of_its_readme(part, pictures, questions, answers):
    found, problems = asked(SHARED / "daquar" / part)
    assert len(found) == pictures and sum(map(len, found.values())) == questions and not problems  # one val picture has no question
    told = {answer for one in found.values() for question in one for answer in question.answers}
    assert answers is None or len(told) == answers


def test_a_batch_carries_the_questions_of_its_pictures(tmp_path):
    where = place(write(tmp_path, [{"image": "a.png", "question": "what?", "answer": "cat"}]))
    asked_about = qa.FORMAT.open(where)["all"][0]
    nothing = Sample("b", b"")
    pixels, draw = torch.zeros(3, 4, 4, dtype=torch.uint8), Draw(0, 0, True)
    batch = collate([Ready(asked_about, 1, pixels), Ready(nothing, 2, pixels)], [draw, draw])
    assert batch.questions == [(Question("what?", ("cat",)),), ()] and batch[:1].questions == batch.questions[:1]
    assert collate([Ready(nothing, 2, pixels)], [draw]).questions == []
