from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_vlm.data.sampler import Draw, Order, permuted


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
    orders = [[d.index for d in Order(100, 100, seed=seed).batch(epoch, 0)] for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert len({tuple(order) for order in orders}) == 3


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(24, 200),
    shape=st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 3), (3, 2), (4, 1)]),
    epoch=st.integers(0, 3),
    drop_last=st.booleans(),
)
def test_union_over_processes_and_accumulation_is_the_single_process_step(length, shape, epoch, drop_last):
    world, accumulation = shape
    alone = Order(length, 24, seed=5, drop_last=drop_last)
    parts = [Order(length, 24, world, rank, accumulation, seed=5, drop_last=drop_last) for rank in range(world)]
    assert all(len(part) == alone.steps * accumulation for part in parts)
    for step in range(alone.steps):
        batches = [part.batch(epoch, step, micro) for part in parts for micro in range(accumulation)]
        assert len({len(batch) for batch in batches}) == 1
        union = Counter(draw.index for batch in batches for draw in batch if draw.real)
        assert union == Counter(draw.index for draw in alone.batch(epoch, step) if draw.real)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 2, 11, 12, 13, 25])
def test_validation_counts_every_sample_exactly_once_on_any_number_of_processes(world, length):
    parts = [list(Order(length, 12, world, rank, shuffle=False, drop_last=False)) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1
    draws = [draw for part in parts for batch in part for draw in batch]
    assert sorted(draw.index for draw in draws if draw.real) == list(range(length))
    assert {draw.epoch for draw in draws} == {0}


def test_every_sample_comes_once_in_a_whole_epoch():
    assert sorted(draw.index for batch in Order(30, 10) for draw in batch) == list(range(30))


def test_resuming_gives_the_rest_of_the_epoch_and_then_whole_epochs():
    order = Order(50, 8, accumulation=2)
    order.set_epoch(3)
    whole = list(order)
    resumed = Order(50, 8, accumulation=2)
    resumed.resume(3, 4)
    assert list(resumed) == whole[8:]
    resumed.set_epoch(4)
    order.set_epoch(4)
    assert list(resumed) == list(order) and len(resumed) == 12


def test_resuming_at_the_end_of_an_epoch_starts_the_next():
    order = Order(16, 8)
    order.resume(0, 2)
    assert next(iter(order))[0].epoch == 1


def test_unshuffled_order_is_that_of_the_collection():
    assert next(iter(Order(5, 3, shuffle=False, drop_last=False))) == [Draw(0, 0), Draw(1, 0), Draw(2, 0)]


def test_batch_size_that_processes_cannot_share_is_refused_with_a_size_that_fits():
    with pytest.raises(ValueError, match=r"batch_size 10 cannot be shared by 2 processes x 2 accumulated steps.*multiple of 4, such as 8"):
        Order(100, 10, world=2, accumulation=2)


def test_batch_larger_than_the_collection_is_refused_with_a_size_that_fits():
    with pytest.raises(ValueError, match=r"batch_size 256 is more than the 51 pictures to train on; set data.batch_size to at most 50"):
        Order(51, 256, world=2)
