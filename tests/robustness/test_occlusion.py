"""Promises of mae_vlm.robustness.occlusion and selection."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from spoilt import KEYS, pictures

from mae_vlm.robustness.family import unit
from mae_vlm.robustness.occlusion import hiding, occluded, shuffled
from mae_vlm.robustness.selection import Selection


def hidden(share: float) -> torch.Tensor:
    """Which 8 x 8 patches of a coloured picture are grey, ``[4, 16]``."""
    coloured = torch.zeros(4, 3, 32, 32)
    grey = (occluded(coloured, KEYS, share, 8) == 0.5).all(1)
    patches = grey.unfold(1, 8, 8).unfold(2, 8, 8).flatten(3)
    assert bool((patches.all(-1) == patches.any(-1)).all()), "whole patches"
    return patches.all(-1).flatten(1)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.55, 0.7])
def test_so_many_patches_are_hidden_as_the_share_says(share):
    assert hidden(share).sum(1).tolist() == [round(16 * share)] * 4


def test_more_occlusion_hides_the_same_patches_and_others_too():
    weak, strong = hidden(0.25), hidden(0.7)
    assert bool((strong | ~weak).all())
    assert not torch.equal(weak[0], weak[1]), "every picture has patches of its own"


@pytest.mark.parametrize("grid", [2, 4, 8])
def test_shuffling_moves_whole_tiles_and_loses_none(grid):
    clean = unit(pictures(32))
    mixed, side = shuffled(clean, KEYS, grid), 32 // grid
    before, after = (images[1].unfold(1, side, side).unfold(2, side, side).permute(1, 2, 0, 3, 4).flatten(2) for images in (clean, mixed))
    assert sorted(map(tuple, before.flatten(0, 1).tolist())) == sorted(map(tuple, after.flatten(0, 1).tolist()))
    assert not torch.equal(clean, mixed)


def test_a_rim_that_no_tile_fits_into_stays():
    clean = unit(pictures(35))
    mixed = shuffled(clean, KEYS, 8)
    assert torch.equal(mixed[..., 32:, :], clean[..., 32:, :]) and torch.equal(mixed[..., 32:], clean[..., 32:])
    assert not torch.equal(mixed, clean)


def test_only_shuffling_moves_pixels():
    occlusion, shuffle = hiding(8, 32, 32)
    assert (occlusion.moves, shuffle.moves) == (False, True)
    assert shuffle.strengths == (2, 4, 8) and hiding(2, 4, 4)[1].strengths == (2, 4)


def test_a_selection_is_by_chance_without_repetition_and_in_order():
    chosen, passes = Selection(1000, 50, 0)(0, np.arange(50))
    assert len(set(chosen.tolist())) == 50 and chosen.tolist() == sorted(chosen.tolist()) and not passes.any()
    assert 300 < chosen.mean() < 700, "not the first ones"
    assert Selection(1000, 50, 1)(0, np.arange(50))[0].tolist() != chosen.tolist()
    assert Selection(7, 50, 0)(0, np.arange(7))[0].tolist() == list(range(7))
