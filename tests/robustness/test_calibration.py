"""Promises of mae_vlm.robustness.calibration."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from mae_vlm.robustness.calibration import Calibration

CHANCE = torch.Generator().manual_seed(0)
SCORES = (3 * torch.randn(400, 5, generator=CHANCE)).softmax(1)
LABELS = torch.randint(0, 5, (400,), generator=CHANCE)


def calibration(scores, labels) -> Calibration:
    found = Calibration()
    found.add(scores, labels)
    return found


def test_the_error_is_torchmetrics_own():
    theirs = multiclass_calibration_error(SCORES, LABELS, 5, n_bins=15).item()
    assert calibration(SCORES, LABELS).error == pytest.approx(theirs, abs=1e-6)


def test_sure_and_right_is_no_error_and_sure_and_wrong_is_all_of_it():
    sure = torch.eye(4)
    assert calibration(sure, torch.arange(4)).error == 0
    assert calibration(sure, (torch.arange(4) + 1) % 4).error == 1


def test_parts_add_up_and_pictures_without_a_label_count_zero():
    whole = calibration(SCORES, LABELS)
    parts = calibration(SCORES[:100], LABELS[:100]) + calibration(SCORES[100:], LABELS[100:])
    assert [tuple(one) for one in parts.bins()] == [pytest.approx(tuple(one)) for one in whole.bins()]
    assert parts.error == pytest.approx(whole.error)
    unknown = torch.cat([LABELS, torch.full((400,), -1)])
    assert calibration(SCORES.repeat(2, 1), unknown).bins() == whole.bins()


def test_the_bins_tell_scores_and_shares_of_right_answers():
    scores = torch.tensor([[0.7, 0.3], [0.7, 0.3], [0.7, 0.3], [0.05, 0.95]])
    low, high = calibration(scores, torch.tensor([0, 0, 1, 1])).bins()
    assert (low.pictures, high.pictures) == (3, 1)
    assert (low.score, low.right, high.right) == pytest.approx((0.7, 2 / 3, 1.0))
