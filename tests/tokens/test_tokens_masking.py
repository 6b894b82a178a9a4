"""Promises of mae_vlm.tokens.masking. Letters as there."""

import itertools

import pytest
import torch

from mae_vlm.tokens.chance import key_of
from mae_vlm.tokens.masking import BlockMask, CellMask, GridMask, InverseBlockMask, Mask, RandomMask
from mae_vlm.types import TokenSpace

KINDS = [RandomMask, CellMask, BlockMask, GridMask, InverseBlockMask]
GRIDS = [TokenSpace(224, 224, 16), TokenSpace(32, 96, 8), TokenSpace(20, 12, 4)]


def keys(count: int, epoch: int = 0) -> torch.Tensor:
    return torch.tensor([key_of(0, epoch, sample) for sample in range(count)])


def hidden(mask: Mask, keys_B: torch.Tensor, space: TokenSpace) -> torch.Tensor:
    """Bool ``[B, rows, columns]``."""
    return mask(keys_B, space).hidden_BN().bool().view(-1, space.rows, space.columns)


def neighbours(chosen_BRQ: torch.Tensor) -> float:
    """Pairs of chosen patches that share a side, per picture."""
    down = chosen_BRQ[:, 1:] & chosen_BRQ[:, :-1]
    across = chosen_BRQ[:, :, 1:] & chosen_BRQ[:, :, :-1]
    return (down.sum() + across.sum()).item() / len(chosen_BRQ)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.6, 0.75, 0.9])
@pytest.mark.parametrize("space", GRIDS, ids=str)
def test_every_mask_keeps_exactly_the_papers_count_and_ranks_every_patch_once(kind, ratio, space):
    masking = kind(ratio)(keys(16), space)
    kept = int(space.patches * (1 - ratio))
    assert masking.keep_BK.shape == (16, kept)
    assert masking.hide_BM.shape == (16, space.patches - kept)
    both_BN = torch.cat([masking.keep_BK, masking.hide_BM], dim=1).sort(dim=1).values
    assert torch.equal(both_BN, torch.arange(space.patches).expand(16, -1))
    assert masking.keep_BK.dtype == masking.hide_BM.dtype == torch.int64


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_key_gives_the_same_mask_whoever_stands_beside_it(kind):
    together, alone = kind()(keys(8), GRIDS[0]), kind()(keys(8)[5:6], GRIDS[0])
    assert torch.equal(together.keep_BK[5:6], alone.keep_BK)
    assert torch.equal(together.hide_BM[5:6], alone.hide_BM)


@pytest.mark.parametrize("kind", KINDS)
def test_another_sample_or_epoch_gives_another_mask(kind):
    masks_BN = torch.cat([kind(0.8)(keys(12, epoch), GRIDS[0]).hidden_BN() for epoch in range(2)])
    assert len({tuple(row) for row in masks_BN.tolist()}) == len(masks_BN)


def test_hidden_is_one_where_the_patch_is_hidden():
    masking = RandomMask(0.5)(keys(3), GRIDS[2])
    mask_BN = masking.hidden_BN()
    assert (mask_BN.gather(1, masking.keep_BK) == 0).all()
    assert (mask_BN.gather(1, masking.hide_BM) == 1).all()


@pytest.mark.parametrize("consecutive", [False, True], ids=["hashed keys", "keys 0, 1, 2 ..."])
def test_random_hides_every_patch_and_every_pair_alike(consecutive):
    count, space = 4000, TokenSpace(16, 16, 4)
    keys_B = torch.arange(count) if consecutive else keys(count)
    visible_BN = 1 - RandomMask(0.75)(keys_B, space).hidden_BN()
    together_NN = visible_BN.T @ visible_BN
    single = (together_NN.diagonal() - count / 4) / (count * 1 / 4 * 3 / 4) ** 0.5
    both = 4 * 3 / (16 * 15)
    pairs = (together_NN[~torch.eye(16, dtype=torch.bool)] - count * both) / (count * both * (1 - both)) ** 0.5
    assert single.abs().max() < 4.5
    assert pairs.abs().max() < 4.5


@pytest.mark.parametrize("kind", KINDS)
def test_over_many_keys_no_place_is_always_or_never_seen(kind):
    shown = 1 - kind(0.6)(keys(600), GRIDS[0]).hidden_BN().mean(dim=0)
    assert shown.min() > 0.01 and shown.max() < 0.95  # blocks seldom reach the corners


@pytest.mark.parametrize(("cell", "ratio"), [(4, 0.75), (2, 0.5), (8, 0.75)])
def test_cell_hides_whole_cells_when_the_count_divides(cell, ratio):
    space = TokenSpace(256, 256, 16)
    hidden_BRQ = hidden(CellMask(ratio, cell), keys(40), space)
    per_cell = hidden_BRQ.view(40, 16 // cell, cell, 16 // cell, cell).float().mean(dim=(2, 4))
    assert ((per_cell == 0) | (per_cell == 1)).all()


def test_cell_cuts_at_most_one_cell_when_the_count_does_not_divide():
    space = TokenSpace(256, 256, 16)
    per_cell = hidden(CellMask(0.7, 4), keys(40), space).view(40, 4, 4, 4, 4).float().mean(dim=(2, 4)).flatten(1)
    assert (((per_cell > 0) & (per_cell < 1)).sum(dim=1) <= 1).all()


def test_block_hides_connected_areas():
    blocks, scattered = (neighbours(hidden(kind(0.6), keys(64), GRIDS[0])) for kind in (BlockMask, RandomMask))
    assert blocks > 1.3 * scattered


@pytest.mark.parametrize(("space", "ratio"), [(GRIDS[0], 0.75), (GRIDS[0], 0.9), (GRIDS[1], 0.6), (GRIDS[2], 0.75)], ids=str)
def test_grid_keeps_a_full_lattice(space, ratio):
    kept = int(space.patches * (1 - ratio))
    step = next(s for s in range(1, 99) if -(-space.rows // s) * -(-space.columns // s) <= kept)
    assert step > 1
    for seen_RQ in ~hidden(GridMask(ratio), keys(20), space):
        assert any(seen_RQ[down::step, across::step].all() for down, across in itertools.product(range(step), repeat=2))


@pytest.mark.parametrize("ratio", [0.5, 0.8, 0.9])
def test_inverse_block_shows_one_square_and_part_of_its_rim(ratio):
    space = GRIDS[0]
    index = torch.arange(space.patches)
    row, column = index // space.columns, index % space.columns
    distance_NN = torch.maximum((row[:, None] - row).abs(), (column[:, None] - column).abs())  # centre by place
    for seen_N in ~hidden(InverseBlockMask(ratio), keys(40), space).flatten(1):
        farthest_seen = distance_NN.masked_fill(~seen_N, -1).amax(dim=1)
        nearest_hidden = distance_NN.masked_fill(seen_N, 99).amin(dim=1)
        assert (farthest_seen <= nearest_hidden).any(), "no centre sees all nearer patches before any farther one"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5, 75.0, float("nan")])
def test_a_ratio_outside_zero_to_one_is_refused(kind, ratio):
    with pytest.raises(ValueError, match=rf"mask ratio {ratio} given, allowed is .* strictly between 0 and 1"):
        kind(ratio)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("ratio", "left"), [(0.99, 0), (0.9999999999999999, 0)])
def test_a_ratio_that_leaves_nothing_visible_is_refused_with_the_numbers(kind, ratio, left):
    with pytest.raises(ValueError, match=rf"mask ratio {ratio} leaves {left} of 4 patches visible; choose a ratio"):
        kind(ratio)(keys(2), TokenSpace(8, 8, 4))


def test_a_ratio_so_small_that_nothing_is_hidden_is_refused():
    with pytest.raises(ValueError, match="leaves 4 of 4 patches visible"):
        RandomMask(1e-17 + 5e-324)(keys(1), TokenSpace(8, 8, 4))


@pytest.mark.parametrize("options", [{"smallest": 0}, {"aspect": 0.5}, {"rectangles": 0}])
def test_impossible_rectangles_are_refused(options):
    with pytest.raises(ValueError, match="block mask needs"):
        BlockMask(**options)


def test_a_cell_of_no_patches_is_refused():
    with pytest.raises(ValueError, match="mask cell 0 given"):
        CellMask(cell=0)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_are_static_and_no_value_is_read_by_the_host(kind):
    masking = kind()(torch.empty(4, dtype=torch.int64, device="meta"), GRIDS[0])  # a meta tensor has no values to read
    plain = kind()(keys(4), GRIDS[0])
    assert masking.keep_BK.shape == plain.keep_BK.shape
    assert masking.hide_BM.shape == plain.hide_BM.shape


@pytest.mark.parametrize("kind", KINDS)
def test_ties_go_to_the_patch_that_comes_first_on_every_device(kind):
    class Flat(kind):
        def scores(self, keys_B, space):
            return torch.zeros(len(keys_B), space.patches)

    masking = Flat(0.5)(keys(2), GRIDS[0])
    assert torch.equal(torch.cat([masking.keep_BK, masking.hide_BM], dim=1), torch.arange(196).expand(2, -1))
