"""Promises of mae_vlm.heads.parts.matching."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch.nn import functional

from mae_vlm.heads.parts.matching import assign, mask_costs

WEIGHTS = (2.0, 5.0, 5.0)


def test_costs_are_those_of_every_pair_by_itself():
    chance = torch.Generator().manual_seed(0)
    logits, points = torch.randn(4, 6, generator=chance), torch.randn(4, 50, generator=chance)
    classes, truth = torch.tensor([0, 3, 3]), torch.rand(3, 50, generator=chance)
    found = mask_costs(logits, points, classes, truth, WEIGHTS)
    for query in range(4):
        for number in range(3):
            share = points[query].sigmoid()
            dice = 1 - (2 * (share * truth[number]).sum() + 1) / (share.sum() + truth[number].sum() + 1)
            entropy = functional.binary_cross_entropy_with_logits(points[query], truth[number])
            expected = -2 * logits[query].softmax(0)[classes[number]] + 5 * entropy + 5 * dice
            assert found[query, number].item() == pytest.approx(expected.item(), abs=1e-5)


def test_the_assignment_is_the_cheapest_of_all():
    cost = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    ((queries, objects),) = assign([cost])
    best = min(sum(cost[query, number] for number, query in enumerate(order)) for order in permutations(range(5), 3))
    assert cost[queries, objects].sum().item() == pytest.approx(best.item()) and sorted(objects.tolist()) == [0, 1, 2]


def test_no_object_no_picture_and_more_objects_than_queries():
    assert assign([]) == []
    (nothing, many) = assign([torch.zeros(4, 0), torch.rand(2, 7)])
    assert [len(part) for part in nothing] == [0, 0] and [len(part) for part in many] == [2, 2]
    assert mask_costs(torch.zeros(4, 6), torch.zeros(4, 9), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 9), WEIGHTS).shape == (4, 0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_cost_that_is_no_number_is_taken_only_where_nothing_else_is_left(bad):
    cost = torch.tensor([[bad, 5.0], [1.0, bad], [3.0, 4.0]])
    ((queries, objects),) = assign([cost])
    assert dict(zip(objects.tolist(), queries.tolist(), strict=True)) == {0: 1, 1: 2}
    ((queries, _),) = assign([torch.full((2, 2), bad)])
    assert queries.tolist() == [0, 1]
