"""The three numbers that fall when features collapse are what their papers define."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mae_vlm.heads.parts import spectrum
from mae_vlm.heads.parts.spectrum import deviation, effective_rank, uniformity


def some(count=200, features=16, seed=0):
    return torch.randn(count, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("directions", [1, 3, 8])
def test_equal_directions_count_each(directions):
    orthonormal = torch.linalg.qr(some(50, 8)).Q[:, :directions]
    assert effective_rank(7.5 * orthonormal) == pytest.approx(directions)


def test_rank_of_unequal_directions_is_the_exponential_of_their_entropy():
    values = torch.tensor([4.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    matrix = torch.linalg.qr(some(30, 4)).Q * values @ torch.linalg.qr(some(4, 4, 1)).Q.T
    assert effective_rank(matrix) == pytest.approx(2**1.75)  # the entropy of 1/2, 1/4, 1/8, 1/8 is 1.75 bits
    by_numpy = np.linalg.svd(some().numpy(), compute_uv=False)
    share = by_numpy / by_numpy.sum()
    assert effective_rank(some()) == pytest.approx(math.exp(-(share * np.log(share)).sum()))


def test_no_feature_has_no_rank():
    assert effective_rank(torch.zeros(10, 4)) == 0.0


def test_deviation_is_that_of_features_of_length_one():
    unit = some().numpy() / np.linalg.norm(some().numpy(), axis=1, keepdims=True)
    assert deviation(some()) == pytest.approx(unit.std(axis=0).mean() * 4)
    axes = torch.cat([torch.eye(16), -torch.eye(16)])  # each feature is +-1 for 2 of 32 pictures: deviation 1/4, times 4
    assert deviation(3 * axes) == pytest.approx(1.0)


def test_uniformity_is_the_mean_over_pairs():
    unit = some(60).numpy() / np.linalg.norm(some(60).numpy(), axis=1, keepdims=True)
    pairs = [math.exp(-2 * ((unit[i] - unit[j]) ** 2).sum()) for i in range(60) for j in range(60) if i != j]
    assert uniformity(some(60)) == pytest.approx(math.log(np.mean(pairs)))
    assert uniformity(torch.tensor([[2.0, 0.0], [0.0, 5.0]])) == pytest.approx(-4)  # one pair, squared distance 2


def test_uniformity_in_pieces_is_the_same(monkeypatch):
    whole = uniformity(some(61))
    monkeypatch.setattr(spectrum, "_CELLS", 61 * 7)
    assert uniformity(some(61)) == pytest.approx(whole)


def test_all_three_fall_when_features_collapse():
    spread, one = some(), some(1)
    collapsed = one + 1e-3 * spread
    flat = spread.clone()
    flat[:, 2:] *= 1e-3
    assert deviation(collapsed) < 0.01 * deviation(spread)
    assert uniformity(collapsed) > -1e-4 and uniformity(spread) < -2
    assert effective_rank(flat) < 2.2 and effective_rank(spread) > 14


def test_half_precision_is_summed_in_float32():
    rounded = some().bfloat16()
    for measure in (effective_rank, deviation, uniformity):
        assert measure(rounded) == measure(rounded.float())


def test_one_picture_has_no_pair():
    with pytest.raises(ValueError, match="a pair is needed"):
        uniformity(torch.ones(1, 3))
