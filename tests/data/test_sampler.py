from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from mae_vlm.data.mixture import Mixture
from mae_vlm.data.sampler import Blocks, Draw, Endless, Full, InTurn, Order, permuted


def ends(*sizes):
    return np.cumsum(np.array(sizes, dtype=np.int64))


# Three ways to shuffle at least 24 samples, by a seed.
SHUFFLES = {
    "full": lambda length, seed: Full(length, seed),
    "blocks": lambda length, seed: Blocks(ends(*[7] * (length // 7), length % 7), seed),
    "mixture": lambda length, seed: Mixture([Full(length - 5, seed), Full(5, seed + 1)], (1, 2), length),
}


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 3000), key=st.integers(-(2**63), 2**63 - 1))
def test_permutation_is_a_bijection_for_any_length(length, key):
    assert sorted(permuted(np.arange(length), length, key).tolist()) == list(range(length))


def test_permutation_of_a_billion_is_in_range_and_without_repeats():
    drawn = permuted(np.arange(5_000_000, 5_010_000), 10**9, 7)
    assert drawn.min() >= 0 and drawn.max() < 10**9 and len(set(drawn.tolist())) == 10_000


def test_permutation_looks_shuffled():
    drawn = permuted(np.arange(10_000), 10_000, 3)
    assert abs(np.corrcoef(drawn, np.arange(10_000))[0, 1]) < 0.05
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 0.05


def test_epochs_and_seeds_have_different_orders():
    orders = [[d.index for d in Order(Full(100, seed), 100).batch(epoch, 0)] for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert len({tuple(order) for order in orders}) == 3


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(24, 200),
    shape=st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 3), (3, 2), (4, 1)]),
    epoch=st.integers(0, 3),
    drop_last=st.booleans(),
    kind=st.sampled_from(sorted(SHUFFLES)),
)
def test_union_over_processes_and_accumulation_is_the_single_process_step(length, shape, epoch, drop_last, kind):
    world, accumulation = shape
    alone = Order(SHUFFLES[kind](length, 5), 24, drop_last=drop_last)
    parts = [Order(SHUFFLES[kind](length, 5), 24, world, rank, accumulation, drop_last) for rank in range(world)]
    assert all(len(part) == alone.steps * accumulation for part in parts)
    for step in range(alone.steps):
        batches = [part.batch(epoch, step, micro) for part in parts for micro in range(accumulation)]
        assert len({len(batch) for batch in batches}) == 1
        union = Counter(draw for batch in batches for draw in batch if draw.real)
        assert union == Counter(draw for draw in alone.batch(epoch, step) if draw.real)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(sorted(SHUFFLES)),
    length=st.integers(24, 150),
    before=st.sampled_from([(1, 1), (2, 1), (4, 1), (2, 2)]),
    after=st.sampled_from([(1, 1), (2, 1), (4, 1), (1, 3)]),
    data=st.data(),
)
def test_an_epoch_resumed_with_other_numbers_draws_what_it_would_have_drawn(kind, length, before, after, data):
    def orders(world, accumulation):
        return [Order(SHUFFLES[kind](length, 1), 12, world, rank, accumulation, drop_last=False) for rank in range(world)]

    stop, epoch = data.draw(st.integers(0, -(-length // 12) - 1)), data.draw(st.integers(0, 2))
    drawn = [
        draw for order in orders(*before) for step in range(stop) for micro in range(before[1]) for draw in order.batch(epoch, step, micro)
    ]
    for order in orders(*after):
        order.resume(epoch, stop)
        drawn += [draw for batch in order for draw in batch]
    real = [draw for draw in drawn if draw.real]
    indices, passes = SHUFFLES[kind](length, 1)(epoch, np.arange(length))
    assert sorted(real) == sorted(Draw(*draw) for draw in zip(indices.tolist(), passes.tolist(), strict=True))
    if kind != "mixture":
        assert sorted(draw.index for draw in real) == list(range(length))


class Drawn(Dataset):
    """Gives the draws back as tensors, from whatever process reads them."""

    def __getitem__(self, draws):
        return torch.tensor([[draw.index, draw.epoch, draw.real] for draw in draws])

    def __len__(self):
        return 1


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(("world", "workers"), [(world, workers) for world in (1, 2, 4) for workers in (0, 2, 3)])
def test_loaders_with_workers_draw_every_sample_once(world, workers):
    kind = "blocks" if world == 2 else "full"
    seen = []
    for rank in range(world):
        order = Order(SHUFFLES[kind](90, 3), 8, world, rank, drop_last=False)
        order.set_epoch(2)
        batches = list(DataLoader(Drawn(), batch_size=None, sampler=order, num_workers=workers))
        assert [batch[:, 0].tolist() for batch in batches] == [[draw.index for draw in batch] for batch in order]
        seen += [index for batch in batches for index, _, real in batch.tolist() if real]
    assert sorted(seen) == list(range(90))


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=30).filter(any), epoch=st.integers(0, 5), seed=st.integers(0, 99))
def test_blocks_draw_every_sample_once_whatever_their_sizes(sizes, epoch, seed):
    length = sum(sizes)
    indices, passes = Blocks(ends(*sizes), seed)(epoch, np.arange(length))
    assert sorted(indices.tolist()) == list(range(length))
    assert set(passes.tolist()) == {epoch}


def test_blocks_are_read_four_at_a_time_and_the_fours_change_every_epoch():
    shuffle, fours = Blocks(ends(*[10] * 20), 7), []
    for epoch in range(3):
        blocks = (shuffle(epoch, np.arange(200))[0] // 10).reshape(5, 40)
        fours.append([frozenset(group.tolist()) for group in blocks])
        assert all(len(group) == 4 for group in fours[-1])
        assert len(set(blocks[0][:10].tolist())) > 1, "within a four, samples are mixed"
    assert fours[0] != fours[1] != fours[2]


def test_one_order_of_blocks_serves_epochs_in_any_turn():
    shuffle, fresh = Blocks(ends(5, 5, 5, 5, 5, 5), 7), Blocks(ends(5, 5, 5, 5, 5, 5), 7)
    first = shuffle(0, np.arange(30))[0]
    shuffle(1, np.arange(30))
    assert (shuffle(0, np.arange(30))[0] == first).all() and (fresh(0, np.arange(17, 20))[0] == first[17:20]).all()


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 2, 11, 12, 13, 25])
def test_validation_counts_every_sample_exactly_once_on_any_number_of_processes(world, length):
    parts = [list(Order(InTurn(length), 12, world, rank, drop_last=False)) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1
    draws = [draw for part in parts for batch in part for draw in batch]
    assert sorted(draw.index for draw in draws if draw.real) == list(range(length))
    assert {draw.epoch for draw in draws} == {0}


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("length", [2, 7, 12, 13, 21, 24])
def test_validation_keeps_neighbours_together_on_any_number_of_processes(world, length):
    def pairs(world):
        drawn = [draw for rank in range(world) for batch in Order(InTurn(length), 12, world, rank, drop_last=False) for draw in batch]
        return {(one, other.index) for one, other in zip(drawn[::2], drawn[1::2], strict=True) if one.real}

    assert pairs(world) == pairs(1)


def test_every_sample_comes_once_in_a_whole_epoch():
    assert sorted(draw.index for batch in Order(Full(30, 0), 10) for draw in batch) == list(range(30))


@settings(max_examples=25, deadline=None)
@given(length=st.integers(24, 60), batch_size=st.integers(1, 24), kind=st.sampled_from(["blocks", "full"]))
def test_what_does_not_fill_a_batch_begins_the_next_epoch(length, batch_size, kind):
    """No sample is left out at an epoch's end, and none comes again before all came."""
    order = Order(Endless(SHUFFLES[kind](length, 3), batch_size), batch_size)
    drawn = []
    for epoch in range(12):
        order.set_epoch(epoch)
        drawn += [draw for batch in order for draw in batch]
    for start in range(0, len(drawn) - length + 1, length):
        assert sorted(draw.index for draw in drawn[start : start + length]) == list(range(length))
        assert {draw.epoch for draw in drawn[start : start + length]} == {start // length}


def test_resuming_gives_the_rest_of_the_epoch_and_then_whole_epochs():
    order = Order(Full(50, 0), 8, accumulation=2)
    order.set_epoch(3)
    whole = list(order)
    resumed = Order(Full(50, 0), 8, accumulation=2)
    resumed.resume(3, 4)
    assert list(resumed) == whole[8:]
    resumed.set_epoch(4)
    order.set_epoch(4)
    assert list(resumed) == list(order) and len(resumed) == 12


def test_resuming_at_the_end_of_an_epoch_starts_the_next():
    order = Order(Full(16, 0), 8)
    order.resume(0, 2)
    assert next(iter(order))[0].epoch == 1


def test_unshuffled_order_is_that_of_the_collection():
    assert next(iter(Order(InTurn(5), 3, drop_last=False))) == [Draw(0, 0), Draw(1, 0), Draw(2, 0)]


def test_batch_size_that_processes_cannot_share_is_refused_with_a_size_that_fits():
    with pytest.raises(ValueError, match=r"batch_size 10 cannot be shared by 2 processes x 2 accumulated steps.*multiple of 4, such as 8"):
        Order(Full(100, 0), 10, world=2, accumulation=2)


def test_batch_larger_than_the_collection_is_refused_with_a_size_that_fits():
    with pytest.raises(ValueError, match=r"batch_size 256 is more than the 51 pictures to train on; set data.batch_size to at most 50"):
        Order(Full(51, 0), 256, world=2)
