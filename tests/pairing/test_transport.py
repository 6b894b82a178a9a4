"""Promises of mae_vlm.pairing.transport."""

from __future__ import annotations

from itertools import permutations

import torch

from mae_vlm.pairing.transport import transport


def a_cost(count: int = 4):
    return torch.rand(3, count, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_plan_takes_as_much_from_each_token_and_brings_as_much_to_each_patch():
    real_BT = torch.tensor([[True] * 5, [True, True, False, False, True], [False] * 5])
    plan_BTN = transport(torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0)), real_BT)
    assert torch.allclose(plan_BTN[:2].sum(1), torch.full((2, 7), 1 / 7))
    assert torch.allclose(plan_BTN.sum(2), real_BT / real_BT.sum(1).clamp(min=1)[:, None], atol=0.02)
    assert (plan_BTN[~real_BT] == 0).all() and plan_BTN.isfinite().all()


def test_the_cost_of_many_iterations_is_that_of_the_best_assignment():
    cost_BTN = a_cost()
    plan_BTN = transport(cost_BTN, torch.ones(3, 4, dtype=torch.bool), beta=0.1, iterations=500)
    found_B = (plan_BTN * cost_BTN).sum((1, 2))
    best_B = [min(sum(cost[row, column] for row, column in enumerate(order)) / 4 for order in permutations(range(4))) for cost in cost_BTN]
    assert torch.allclose(found_B, torch.stack(best_B), atol=1e-3)


def test_padding_changes_nothing():
    cost_BTN = a_cost()
    longer_BTN = torch.cat([cost_BTN, 99 * torch.ones(3, 2, 4, dtype=torch.float64)], 1)
    real_BT = torch.tensor([[True] * 4 + [False] * 2] * 3)
    assert torch.allclose(transport(longer_BTN, real_BT)[:, :4], transport(cost_BTN, real_BT[:, :4]), atol=1e-12)
