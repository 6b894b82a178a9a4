"""The statistics of few seeds, against an independent computation, and against chance itself."""

from __future__ import annotations

import math
import statistics

import mpmath
import numpy as np
import pytest

from mae_vlm.ablation.statistics import paired, spread, t_below, t_quantile


def student(value, freedom):
    """P(t < value) by the regularised incomplete beta function, which the package's finite sums do not use."""
    return 1 - float(mpmath.betainc(freedom / 2, 0.5, 0, freedom / (freedom + value**2), regularized=True)) / 2


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 9, 30, 101])
def test_students_t_is_that_of_the_beta_function(freedom):
    for value in (0.0, 0.3, 1.0, 2.5, 12.0):
        assert t_below(value, freedom) == pytest.approx(student(value, freedom), abs=1e-12)
    for probability in (0.6, 0.9, 0.975, 0.999):
        assert student(t_quantile(probability, freedom), freedom) == pytest.approx(probability, abs=1e-9)


def test_quantiles_are_those_of_the_printed_tables():
    printed = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 30: 2.042}
    assert {freedom: round(t_quantile(0.975, freedom), 3) for freedom in printed} == printed


def test_a_paired_interval_by_hand():
    found = paired({0: 0.50, 1: 0.54, 2: 0.52, 7: 9.0}, {2: 0.47, 0: 0.46, 1: 0.48})
    differences = [0.04, 0.06, 0.05]
    half = 4.30265 * statistics.stdev(differences) / math.sqrt(3)
    assert found is not None and found.seeds == 3 and found.told_apart
    assert (found.mean, found.low, found.high) == pytest.approx((0.05, 0.05 - half, 0.05 + half), abs=1e-6)


def test_what_pairs_tell_apart_the_seeds_own_spread_would_hide():
    left, right = {0: 0.20, 1: 0.40, 2: 0.60}, {0: 0.18, 1: 0.379, 2: 0.581}
    found = paired(left, right)
    assert found is not None and found.told_apart
    assert spread(list(left.values())).deviation > 5 * found.mean


def test_nothing_is_told_apart_by_one_seed_or_by_equal_differences():
    one, same = paired({0: 0.9}, {0: 0.1}), paired({0: 0.5, 1: 0.6}, {0: 0.4, 1: 0.5})
    assert one is not None and one.low is None and not one.told_apart
    assert same is not None and same.mean == pytest.approx(0.1) and same.low is None and not same.told_apart
    assert paired({0: 0.9}, {1: 0.1}) is None


def test_spread_of_one_run_has_no_deviation():
    assert spread([]) is None
    assert spread([0.5]).deviation is None
    assert spread([0.5, 0.7]).deviation == pytest.approx(statistics.stdev([0.5, 0.7]))


@pytest.mark.parametrize("choices, seeds", [(2, 3), (2, 2), (3, 3), (6, 4)])
def test_equal_choices_get_a_winner_in_at_most_one_table_of_twenty(choices, seeds):
    generator = np.random.default_rng(5)
    named, tables = 0, 2000
    for _ in range(tables):
        scores = generator.standard_normal((choices, seeds))
        best = int(scores.mean(axis=1).argmax())
        told = [paired(dict(enumerate(scores[best])), dict(enumerate(row))) for place, row in enumerate(scores) if place != best]
        named += all(one is not None and one.told_apart for one in told)
    assert named / tables < 0.05 + 3 * math.sqrt(0.05 * 0.95 / tables)
