"""Promises of mae_vlm.tokens.answers."""

from __future__ import annotations

import pytest

from mae_vlm.tokens.answers import accuracy, commonest, normal


@pytest.mark.parametrize(
    "given, expected",
    [
        ("Two dogs.", "2 dogs"),
        ("the  red ball", "red ball"),
        ("a", "a"),
        ("1,000", "1000"),
        ("3.5 miles", "3.5 miles"),
        ("black/white", "black white"),
        ("yes, it is", "yes it is"),
        ("dont know", "don't know"),
        ("it's", "it's"),
        ("its tail", "its tail"),
        ("none", "0"),
        ("ill", "ill"),
    ],
)
def test_answers_are_compared_in_the_form_of_vqas_evaluation(given, expected):
    assert normal(given) == expected


def test_three_of_ten_people_are_worth_nine_tenths_and_four_all():
    for agreeing, worth in ((0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)):
        given = ["red"] * agreeing + [f"other {number}" for number in range(10 - agreeing)]
        assert accuracy("red", given) == pytest.approx(worth), agreeing


def test_forms_count_as_one_only_where_people_disagree():
    assert accuracy("2", ["two"] * 10) == 0.0 and accuracy("two", ["two"] * 10) == 1.0
    assert accuracy("2", ["two"] * 9 + ["three"]) == 1.0


def test_of_fewer_than_four_answers_each_is_right():
    assert accuracy("red", ["red"]) == accuracy("red", ["red", "blue", "green"]) == 1.0
    assert accuracy("black", ["red", "blue"]) == 0.0
    assert accuracy("red", ["red", "blue", "green", "white"]) == pytest.approx(0.25)


def test_the_commonest_answer_is_counted_by_its_form():
    assert commonest(["Two", "a cat", "2", "three"]) == "2"
