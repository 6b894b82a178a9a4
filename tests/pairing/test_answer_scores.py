"""Promises of mae_vlm.pairing.answer_scores."""

from __future__ import annotations

import pytest

from mae_vlm.pairing.answer_scores import AnswerScores


def test_all_questions_with_an_answer_count_and_those_of_yes_and_no_are_left_out_of_the_open_ones():
    metric = AnswerScores()
    metric.update(["red", "yes"], [["red"] * 3 + ["blue"] * 7, ["no"]])
    metric.update(["2", "nobody asked people this"], [["two"], []])
    found = metric.compute()
    assert found["vqa_accuracy"] == pytest.approx((0.9 + 0 + 0) / 3), "2 is not spelled as the one person did"
    assert found["exact_match"] == pytest.approx(1 / 3)
    assert found["exact_match_open"] == pytest.approx(1 / 2)


def test_without_open_questions_there_is_no_number_for_them():
    metric = AnswerScores()
    metric.update(["no"], [["no"]])
    assert metric.compute().keys() == {"vqa_accuracy", "exact_match"}
