"""Promises of mae_vlm.heads.parts.point_loss."""

from __future__ import annotations

import torch

from mae_vlm.heads.parts.point_loss import chosen_points, logits_at, mask_losses, random_points, truth_at


def test_masks_read_as_bits_are_those_read_as_numbers_also_beyond_the_edge():
    chance = torch.Generator().manual_seed(0)
    masks = torch.rand(3, 7, 11, generator=chance) > 0.5
    points = torch.rand(4, 200, 2, generator=chance) * 1.2 - 0.1
    rows = torch.tensor([2, 0, 2, 1])
    expected = logits_at(masks[rows][:, None].float(), points)[:, 0]
    torch.testing.assert_close(truth_at(masks, rows, points), expected)
    shared = truth_at(masks, torch.arange(3), points[:1])
    torch.testing.assert_close(shared, logits_at(masks[None].float(), points[:1])[0])
    assert truth_at(masks[:0], torch.arange(0), points[:1]).shape == (0, 200)


def test_points_are_the_most_doubtful_candidates_and_some_random_ones():
    logits = torch.linspace(-4, 4, 16).expand(1, 16, 16).contiguous()  # in doubt in the middle column
    candidates, random = random_points(torch.arange(1), 400, 0), random_points(torch.arange(1), 25, 1)
    points = chosen_points(logits, candidates, random, 125)
    assert points.shape == (1, 125, 2) and torch.equal(points[:, 100:], random)
    doubt = logits_at(logits[None], points)[0, 0].abs()
    others = logits_at(logits[None], candidates)[0, 0].abs().sort().values
    torch.testing.assert_close(doubt[:100].sort().values, others[:100])


def test_points_come_from_the_keys_alone():
    points = random_points(torch.tensor([3, 9]), 50, 2)
    assert torch.equal(points[1:], random_points(torch.tensor([9]), 50, 2)) and points.min() >= 0 and points.max() < 1
    assert not torch.equal(points[0], points[1]) and not torch.equal(points, random_points(torch.tensor([3, 9]), 50, 3))


def test_a_sure_right_mask_costs_nothing_and_a_sure_wrong_one_the_most():
    truth = torch.tensor([[1.0, 1, 0, 0]])
    entropy, dice = mask_losses((truth * 2 - 1) * 50, truth)
    assert entropy.item() < 1e-6 and dice.item() < 1e-6
    entropy, dice = mask_losses((1 - truth * 2) * 50, truth)
    assert entropy.item() == 50 and abs(dice.item() - (1 - 1 / 5)) < 1e-6
