"""Promises of mae_vlm.heads.parts.annealing."""

from __future__ import annotations

import pytest
import torch

from mae_vlm.heads.parts.annealing import attention_mask, masked_share

KEYS = torch.arange(2)


def test_blocks_are_opened_one_after_another_within_the_run():
    assert [masked_share(block, 3, 0.2) for block in range(3)] == [1, 1, 1]
    assert masked_share(0, 3, 0.3) == pytest.approx(0.5**0.9) and masked_share(1, 3, 0.3) == 1
    assert [masked_share(block, 3, 0.4) for block in range(3)] == pytest.approx([0, 1, 1])
    assert [masked_share(block, 3, 0.8) for block in range(3)] == pytest.approx([0, 0, 0])
    shares = [masked_share(1, 4, step / 100) for step in range(101)]
    assert shares == sorted(shares, reverse=True) and shares[0] == 1 and shares[-1] == 0


def test_a_wholly_masked_query_sees_its_own_patches_and_everything_else_sees_everything():
    masks = torch.full((2, 3, 4, 4), -1.0)
    masks[0, 1, :2, :2] = 1.0  # covers the first of 2 x 2 patches
    seen = attention_mask(masks, (2, 2), 1, 1.0, KEYS, 0)
    assert seen.shape == (2, 1, 8, 8) and seen.dtype == torch.bool
    assert seen[:, :, 3:].all(), "class token and patches see all"
    assert seen[:, :, :, :4].all(), "all see the queries and the class token, so no row is empty"
    assert seen[0, 0, 1, 4:].tolist() == [True, False, False, False]
    assert not seen[0, 0, [0, 2], 4:].any() and not seen[1, 0, :3, 4:].any()


def test_nobody_is_masked_in_the_end():
    assert attention_mask(torch.zeros(2, 3, 4, 4), (2, 2), 1, 0.0, KEYS, 0) is None


def test_a_share_of_queries_is_masked_by_chance_from_the_keys_alone():
    masks = torch.full((2, 500, 4, 4), -1.0)
    one = attention_mask(masks, (2, 2), 1, 0.3, KEYS, 5)
    torch.manual_seed(7)
    assert torch.equal(one, attention_mask(masks, (2, 2), 1, 0.3, KEYS, 5))
    rows = one[:, 0, :500, 501:]
    assert torch.equal(rows.any(2), rows.all(2)), "a row is wholly open or wholly masked"
    assert 0.6 < rows.float().mean() < 0.8
    assert torch.equal(attention_mask(masks[1:], (2, 2), 1, 0.3, KEYS[1:], 5)[0], one[1]), "however the batch is dealt"
