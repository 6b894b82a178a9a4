"""Promises of mae_vlm.learners.schedule."""

import math

import pytest

from mae_vlm.learners.schedule import warmup_cosine


def test_warm_up_is_linear_and_the_first_step_already_moves():
    assert [warmup_cosine(step, 100, 4) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_after_the_warm_up_half_a_cosine_falls_to_the_floor():
    for step in range(10, 110):
        expected = 0.1 + 0.9 * (1 + math.cos(math.pi * (step - 10) / 100)) / 2
        assert warmup_cosine(step, 110, 10, floor=0.1) == pytest.approx(expected)
    assert warmup_cosine(60, 110, 10) == pytest.approx(0.5)
    assert warmup_cosine(110, 110, 10, floor=0.1) == pytest.approx(0.1)
    assert warmup_cosine(999, 110, 10) == pytest.approx(0.0)


def test_without_a_known_end_the_rate_stays_at_its_peak():
    assert [warmup_cosine(step, 0, 2) for step in (0, 1, 2, 10**6)] == [0.5, 1.0, 1.0, 1.0]


def test_without_warm_up_the_first_step_is_the_peak():
    assert warmup_cosine(0, 10, 0) == 1.0
