"""Promises of mae_vlm.heads.pair."""

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
from mae_vlm.heads.pair import PairReasoning
from mae_vlm.types import Question

STATED = [
    (Question("the left picture shows a square", ("true",)), Question("both show a ring", ("False",))),
    (),
    (Question("there are two circles", ("true",)), Question("it is red", ())),
]


def a_head(**options):
    house = towers(partial(CrossAttention, depth=1, heads=2))
    return house, stirred(PairReasoning(house, **options).double())


def stating(questions=STATED):
    batch = a_batch([()] * len(questions))
    return replace(batch, questions=list(questions), partner_BCHW=batch.second_BCHW)


def told(house, head, batch):
    house.train(head.training)
    return head(Features(house, batch))


def swapped(batch):
    return replace(batch, images_BCHW=batch.partner_BCHW, partner_BCHW=batch.images_BCHW)


def test_validation_judges_all_and_training_what_is_known_to_be_true_or_false():
    house, head = a_head()
    batch = stating()
    assert told(house, head.eval(), batch)["pair"].tolist() == [0, 0, 2, 2]
    assert told(house, head.train(), batch)["pair"].tolist() == [0, 0, 2] and head.counts(batch)["cross_entropy"] == 3
    _, few = a_head(statements=1)
    assert [len(some) for some in few.train().asked(batch)] == [1, 0, 1]


def test_the_loss_is_the_cross_entropy_of_true_and_false():
    house, head = a_head()
    batch = stating()
    answer = told(house, head.train(), batch)
    expected = functional.cross_entropy(answer["logits"], torch.tensor([1, 0, 1]))
    torch.testing.assert_close(head.loss(answer, batch).value, expected)
    validated = told(house, head.eval(), batch)
    torch.testing.assert_close(head.loss(validated, batch).value, expected)  # the statement that nobody has judged counts zero


def test_both_pictures_are_seen_and_it_matters_which_is_the_left_one():
    house, head = a_head()
    batch, other = stating(), stating()
    other.partner_BCHW = other.partner_BCHW.flip(0)
    logits = told(house, head.eval(), batch)["logits"]
    for changed in (other, swapped(batch)):
        assert not torch.allclose(logits[:2], told(house, head, changed)["logits"][:2], atol=1e-4)


def test_the_blind_twin_has_the_same_weights_and_sees_neither_picture():
    house, head = a_head(picture=False)
    batch = stating()
    assert torch.equal(told(house, head.eval(), batch)["logits"], told(house, head, swapped(batch))["logits"])
    head.train().loss(told(house, head, batch), batch).value.backward()
    assert all(weight.grad is not None for weight in [*house.parameters(), *head.parameters()] if weight.requires_grad)
    assert {name for name, _ in head.named_parameters()} == {name for name, _ in a_head()[1].named_parameters()}


@pytest.mark.parametrize("questions", [[()] * 3, [(Question("is it?", ("a zebra",)),)] * 3, []], ids=["none", "unknown truth", "no list"])
@pytest.mark.parametrize("training", [True, False])
def test_without_any_statement_all_is_finite_and_every_weight_has_a_gradient(questions, training):
    house, head = a_head()
    batch = replace(stating([()] * 3), questions=list(questions))
    answer = told(house, head.train(training), batch)
    value = head.loss(answer, batch)
    value.value.backward()
    weights = [*head.parameters(), *(weight for weight in house.parameters() if weight.requires_grad)]
    assert value.value == 0 and all(weight.grad is not None and weight.grad.isfinite().all() for weight in weights)


def test_padding_counts_zero():
    house, head = a_head()
    batch = stating()
    batch.real_B[0] = False
    answer, alone = told(house, head.eval(), batch), told(house, head, stating()[2:])
    torch.testing.assert_close(answer["logits"], alone["logits"])
    assert [said.id for said in head.predictions(answer, batch)] == ["picture 1", "picture 2"]


def test_every_statement_is_judged_with_a_score_and_what_is_known_is_measured():
    house, head = a_head()
    batch, metrics = stating(), head.metrics()
    answer = told(house, head.eval(), batch)
    said = [one for some in head.predictions(answer, batch) for one in some.said]
    best = answer["logits"].softmax(1).max(1)
    assert [one.question for one in said] == [one.text for some in STATED for one in some]
    assert [one.text for one in said] == [("false", "true")[number] for number in best.indices.tolist()]
    assert [one.score for one in said] == pytest.approx(best.values.tolist())
    head.measure(metrics, answer, batch)
    right = [one.text == truth for one, truth in zip(said, ("true", "false", "true"), strict=False)]
    assert metrics.compute()["accuracy"] == pytest.approx(sum(right) / 3)
    sheet = head.pictures(answer, batch)["pairs"]
    assert sheet.shape[0] == 3 and sheet.min() >= 0 and sheet.max() <= 1


def test_mistakes_are_told():
    house, head = a_head()
    with pytest.raises(ValueError, match="single pictures given, statements are about pairs"):
        told(house, head, replace(stating(), partner_BCHW=None))
    with pytest.raises(ValueError, match="statements 0 given"):
        a_head(statements=0)
    with pytest.raises(ValueError, match="needs a fusion tower"):
        PairReasoning(towers())
    summary = Summary("pictures", "list", 10, 5, 0, 16, 16, 3, classes=None, split="", known=frozenset({"questions"}))
    with pytest.raises(ValueError, match=r"pictures has no statements about pairs of pictures \(it lacks partner\)"):
        head.check(summary)
    head.check(replace(summary, known=frozenset({"questions", "partner"})))
