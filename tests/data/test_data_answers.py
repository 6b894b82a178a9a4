"""Promises of mae_vlm.data.answers."""

from __future__ import annotations

import pytest

from mae_vlm.data.answers import common
from mae_vlm.types import Question


class Asked(list):
    """Samples by their questions' answers; None is one that cannot be read."""

    def __getitem__(self, index):
        if super().__getitem__(index) is None:
            raise ValueError("broken")
        return type("Sample", (), {"questions": [Question("what?", answers) for answers in super().__getitem__(index)]})

    worded = __getitem__


SOME = Asked(
    [[("Red", "red.", "red.")], [("blue",), ("two", "2", "2", "blue")], None, [("blue",), ()], [("green", "red", "green")], [("2",)]]
)


def test_the_commonest_answers_come_first_each_spelled_as_most_people_did():
    assert common(SOME) == ["2", "blue", "green", "red."]
    assert common(SOME, least=2) == ["2", "blue"] and common(SOME, most=3) == ["2", "blue", "green"]


def test_only_some_pictures_are_asked_of_a_large_collection():
    assert common(Asked([[("a",)], [("b",)], [("c",)], [("d",)]]), pictures=2) == ["a", "c"]


def test_too_few_answers_are_told():
    with pytest.raises(ValueError, match="have 1 answers given 3 times or more, and two are needed"):
        common(Asked([[("a",)]] * 3 + [[("b",)]]), least=3)
