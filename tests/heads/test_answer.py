"""Promises of mae_vlm.heads.answer, mae_vlm.objectives.answers and what they share."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from captioned import a_batch, stirred, towers
from torch.nn import functional

from mae_vlm.data.summary import Summary
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.fusion.cross import CrossAttention
from mae_vlm.heads.answer import AnswerQuestions
from mae_vlm.objectives.answers import Answers
from mae_vlm.types import Question

NAMES = ["red", "2", "yes", "no"]
ASKED = [
    (Question("what colour is the square?", ("red",)), Question("how many rings?", ("two",) * 2 + ("three",) * 8)),
    (),
    (Question("is it a star?", ("no",)), Question("what is it?", ("a zebra",)), Question("is it red?", ("yes",))),
    (Question("is it blue?", ("yes",)),),
]


def a_house():
    return towers(partial(CrossAttention, depth=1, heads=2))


def a_head(house=None, **options):
    house = house or a_house()
    return house, stirred(AnswerQuestions(house, **{"classes": NAMES} | options).double())


def asking(questions=ASKED):
    return replace(a_batch([()] * len(questions)), questions=list(questions))


def told(house, head, batch):
    house.train(head.training)
    return head(Features(house, batch))


def test_validation_asks_all_and_training_what_has_a_known_answer():
    house, head = a_head()
    batch = asking()
    rows = told(house, head.eval(), batch)
    assert rows["logits"].shape == (6, 4) and rows["picture"].tolist() == [0, 0, 2, 2, 2, 3]
    rows = told(house, head.train(), batch)
    assert rows["picture"].tolist() == [0, 0, 2, 2, 3] and head.counts(batch)["binary"] == 5


def test_in_training_some_of_a_pictures_questions_are_drawn_by_its_key():
    _, head = a_head(questions=1)
    batch = asking([ASKED[2] * 4] * 8)
    texts = [[one.text for one in some] for some in head.answering.asked(batch)]
    assert all(len(some) == 1 for some in texts) and len({some[0] for some in texts}) > 1
    parts = [head.answering.asked(batch[start : start + 2]) for start in range(0, 8, 2)]
    assert [[one.text for one in some] for part in parts for some in part] == texts, "however the batch is dealt"


def test_the_loss_is_that_of_vilt():
    """Binary cross-entropy with logits, its mean over questions and answers times the answers; targets min(1, .3 for each person)."""
    house, head = a_head()
    batch = asking([ASKED[0], ASKED[3]])
    answer = told(house, head.train(), batch)
    target_RL = torch.tensor([[1, 0, 0, 0], [0, 0.6, 0, 0], [0, 0, 1, 0]], dtype=torch.float64)
    expected = functional.binary_cross_entropy_with_logits(answer["logits"], target_RL) * 4
    torch.testing.assert_close(head.loss(answer, batch).value, expected)
    _, single = a_head(house, loss="cross_entropy")
    shares_RL = target_RL / target_RL.sum(1, keepdim=True)
    torch.testing.assert_close(single.loss(answer, batch).value, functional.cross_entropy(answer["logits"], shares_RL))


@pytest.mark.parametrize("loss", ["binary", "cross_entropy"])
@pytest.mark.parametrize("questions", [[()] * 3, [(Question("what?", ("a zebra",)),)] * 3, []], ids=["none", "unknown answers", "no list"])
@pytest.mark.parametrize("training", [True, False])
def test_without_any_question_all_is_finite_and_every_weight_has_a_gradient(loss, questions, training):
    house, head = a_head(loss=loss)
    batch = replace(asking([()] * 3), questions=list(questions))
    answer = told(house, head.train(training), batch)
    value = head.loss(answer, batch)
    value.value.backward()
    weights = [*head.parameters(), *(weight for weight in house.parameters() if weight.requires_grad)]
    assert value.value == 0 and all(weight.grad is not None and weight.grad.isfinite().all() for weight in weights)
    assert head.counts(batch)[loss] == value.terms[loss].count == 0


def test_padding_counts_zero():
    house, head = a_head()
    batch, alone = asking(), asking()[2:3]
    batch.real_B[[0, 1, 3]] = False
    answer, one = told(house, head.eval(), batch), told(house, head.eval(), alone)
    torch.testing.assert_close(head.loss(answer, batch).value, head.loss(one, alone).value)
    assert [said.id for said in head.predictions(answer, batch)] == ["picture 2"]


def test_every_question_gets_an_answer_with_its_score_and_all_are_measured():
    house, head = a_head()
    batch, metrics = asking(), head.metrics()
    answer = told(house, head.eval(), batch)
    found = head.predictions(answer, batch)
    assert [[one.question for one in some.said] for some in found] == [[one.text for one in some] for some in ASKED]
    best = answer["logits"].sigmoid().max(1)
    assert [one.text for some in found for one in some.said] == [NAMES[number] for number in best.indices.tolist()]
    assert [one.score for some in found for one in some.said] == pytest.approx(best.values.tolist())
    head.measure(metrics, answer, batch)
    right = [one.text in truth.answers for some, all in zip(found, ASKED, strict=True) for one, truth in zip(some.said, all, strict=True)]
    forms = ["2" if one == "two" else one for one in ("red", "three", "no", "zebra", "yes", "yes")]
    said = [one.text for some in found for one in some.said]
    assert metrics.compute()["exact_match"] == pytest.approx(sum(map(str.__eq__, said, forms)) / 6) and len(right) == 6


def test_the_blind_twin_sees_the_question_alone_and_has_a_gradient_for_every_weight():
    house, head = a_head(picture=False)
    batch, other = asking(), asking()
    other.images_BCHW = other.images_BCHW.flip(0)
    assert torch.equal(told(house, head.eval(), batch)["logits"], told(house, head.eval(), other)["logits"])
    _, seeing = a_head(house)
    assert not torch.allclose(told(house, seeing.eval(), batch)["logits"], told(house, seeing.eval(), other)["logits"], atol=1e-4)
    head.train().loss(told(house, head, batch), batch).value.backward()
    assert all(weight.grad is not None for weight in [*house.parameters()] if weight.requires_grad)
    assert {name for name, _ in head.named_parameters()} == {name for name, _ in seeing.named_parameters()}


def test_pictures_show_each_question_with_what_is_said_of_it():
    house, head = a_head()
    batch = asking()
    sheet = head.pictures(told(house, head.eval(), batch), batch)["answers"]
    assert sheet.shape[0] == 3 and sheet.min() >= 0 and sheet.max() == 1 and sheet.shape[1] > 2 * 480


def test_the_objective_has_the_same_loss_and_the_same_numbers():
    house, head = a_head()
    objective = Answers(house, classes=NAMES).double()
    objective.answering.load_state_dict(head.answering.state_dict())
    batch, metrics = asking(), objective.metrics()
    house.train()
    features = Features(house, batch)
    torch.testing.assert_close(objective.train()(features, batch).value, head.train().loss(head(features), batch).value)
    assert objective.counts(features) == head.counts(batch)
    house.eval(), objective.eval(), head.eval()
    features, theirs = Features(house, batch), head.metrics()
    objective.measure(metrics, features)
    head.measure(theirs, head(features), batch)
    assert metrics.compute() == theirs.compute()


@pytest.mark.parametrize(
    "options, told",
    [
        ({"classes": None}, "classes None given: two or more answers"),
        ({"loss": "focal"}, "loss 'focal' given, allowed are binary, cross_entropy"),
        ({"questions": 0}, "most 0 given: questions of a picture"),
    ],
    ids=str,
)
def test_a_mistake_is_told(options, told):
    with pytest.raises(ValueError, match=told):
        a_head(**options)


def test_towers_and_data_that_are_missing_are_told():
    with pytest.raises(ValueError, match="needs a fusion tower"):
        AnswerQuestions(towers(), classes=NAMES)
    summary = Summary("pictures", "list", 10, 5, 0, 16, 16, 3, classes=None, split="", known=frozenset({"captions"}))
    with pytest.raises(ValueError, match=r"pictures has no questions; name data\.question_column"):
        a_head()[1].check(summary)
