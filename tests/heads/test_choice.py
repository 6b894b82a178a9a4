"""Promises of mae_vlm.heads.choice."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from captioned import a_batch, stirred, towers

from mae_vlm.data.summary import Summary
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.fusion.cross import CrossAttention
from mae_vlm.heads.choice import MultipleChoice
from mae_vlm.heads.parts.reasoning_scores import ChoiceScores
from mae_vlm.types import Question

WHAT = Question("what is it?", ("a red ring",), ("a blue ring", "a red ring", "a star"))
WHY = Question("what is it? a red ring", ("it is round",), ("it is round", "it is small"), rationale=True)
OPEN = Question("which?", (), ("a circle", "a cross"))
ASKED = [(WHAT, WHY), (Question("without choices?", ("yes",)),), (OPEN,)]


def a_head(**options):
    house = towers(partial(CrossAttention, depth=1, heads=2))
    return house, stirred(MultipleChoice(house, **options).double())


def asking(questions=ASKED):
    return replace(a_batch([()] * len(questions)), questions=list(questions))


def told(house, head, batch):
    house.train(head.training)
    return head(Features(house, batch))


def test_every_candidate_has_one_score_and_missing_ones_cannot_be_chosen():
    house, head = a_head()
    logits_QK = told(house, head.eval(), asking())["logits"]
    assert logits_QK.shape == (3, 3) and logits_QK.isneginf().tolist() == [[False] * 3, [False, False, True], [False, False, True]]
    alone = told(house, head, asking([(WHAT._replace(choices=WHAT.choices[::-1]),)]))["logits"]
    torch.testing.assert_close(alone[0].flip(0), logits_QK[0], msg="a candidate's score does not depend on its place")


def test_training_learns_from_questions_whose_answer_is_known():
    _, head = a_head()
    assert head.train().counts(asking())["cross_entropy"] == 2 and [len(some) for some in head.asked(asking())] == [2, 0, 0]
    assert [len(some) for some in head.eval().asked(asking())] == [2, 0, 1]
    _, few = a_head(questions=1)
    assert [len(some) for some in few.train().asked(asking())] == [1, 0, 0]


@pytest.mark.parametrize("training", [True, False])
def test_the_loss_is_the_cross_entropy_over_the_candidates_of_each_question(training):
    house, head = a_head()
    answer = told(house, head.train(training), asking())
    what, why = answer["logits"][0], answer["logits"][1, :2]
    expected = (what.logsumexp(0) - what[1] + why.logsumexp(0) - why[0]) / 2
    torch.testing.assert_close(head.loss(answer, asking()).value, expected)


@pytest.mark.parametrize("questions", [[()] * 3, [(OPEN,)] * 3, []], ids=["none", "nobody has answered", "no list"])
@pytest.mark.parametrize("training", [True, False])
def test_without_any_question_all_is_finite_and_every_weight_has_a_gradient(questions, training):
    house, head = a_head()
    batch = replace(asking([()] * 3), questions=list(questions))
    value = head.loss(told(house, head.train(training), batch), batch)
    value.value.backward()
    weights = [*head.parameters(), *(weight for weight in house.parameters() if weight.requires_grad)]
    assert value.value == 0 and all(weight.grad is not None and weight.grad.isfinite().all() for weight in weights)


def test_the_blind_twin_sees_the_words_alone():
    house, head = a_head(picture=False)
    other = asking()
    other.images_BCHW = other.images_BCHW.flip(0)
    assert torch.equal(told(house, head.eval(), asking())["logits"], told(house, head, other)["logits"])
    _, seeing = a_head()
    assert not torch.allclose(told(house, seeing.eval(), asking())["logits"], told(house, seeing, other)["logits"], atol=1e-4)


def test_padding_counts_zero():
    house, head = a_head()
    batch = asking()
    batch.real_B[0] = False
    answer = told(house, head.eval(), batch)
    torch.testing.assert_close(answer["logits"], told(house, head, asking()[2:])["logits"])
    assert [said.id for said in head.predictions(answer, batch)] == ["picture 1", "picture 2"] and head.loss(answer, batch).value == 0


def test_what_is_chosen_is_told_with_its_score_and_measured():
    house, head = a_head()
    answer, metrics = told(house, head.eval(), asking()), head.metrics()
    said = [one for some in head.predictions(answer, asking()) for one in some.said]
    best = answer["logits"].softmax(1).max(1)
    asked = (WHAT, WHY, OPEN)
    assert [one.question for one in said] == [one.text for one in asked]
    assert [one.text for one in said] == [one.choices[number] for one, number in zip(asked, best.indices.tolist(), strict=True)]
    assert [one.score for one in said] == pytest.approx(best.values.tolist())
    head.measure(metrics, answer, asking())
    right = [one.text in question.answers for one, question in zip(said, asked, strict=True)]
    assert metrics.compute() == {"accuracy": right[0], "rationale_accuracy": right[1], "both_accuracy": right[0] and right[1]}
    sheet = head.pictures(answer, asking())["choices"]
    assert sheet.shape[0] == 3 and sheet.min() >= 0 and sheet.max() <= 1


def test_a_reason_counts_together_with_the_question_before_it():
    scores = ChoiceScores()
    scores.update([True, True, True, False, False, True, None], [False, True, False, True, False, True, False])
    scores.update([True, False], [False, False])
    found = {name: float(value) for name, value in scores.compute().items()}
    assert found == pytest.approx({"accuracy": 3 / 5, "rationale_accuracy": 2 / 3, "both_accuracy": 1 / 3})
    none = ChoiceScores()
    none.update([True, False], [False, False])
    assert none.compute() == {"accuracy": 0.5}


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="questions 0 given"):
        a_head(questions=0)
    with pytest.raises(ValueError, match="needs a fusion tower"):
        MultipleChoice(towers())
    summary = Summary("pictures", "qa", 10, 5, 0, 16, 16, 3, classes=None, split="", known=frozenset({"questions"}))
    with pytest.raises(ValueError, match="pictures has no questions with candidates to choose from"):
        a_head()[1].check(summary)
