from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pictures_on_disk import write_folder

from mae_vlm.data.mixture import Mixture, shares
from mae_vlm.data.module import Data
from mae_vlm.data.parts import Ingredient
from mae_vlm.data.sampler import Blocks, Full, Order

WEIGHTS = st.lists(st.floats(0.1, 10), min_size=1, max_size=5)


def parts_of(lengths):
    return [Full(length, seed) for seed, length in enumerate(lengths)]


@given(weights=WEIGHTS, total=st.integers(1, 1000))
def test_shares_are_exact_and_within_one_of_the_proportion(weights, total):
    counts = shares(weights, total)
    assert sum(counts) == total
    assert all(abs(count - weight / sum(weights) * total) < 1 for count, weight in zip(counts, weights, strict=True))


@settings(max_examples=50, deadline=None)
@given(weights=WEIGHTS, length=st.integers(200, 400), epoch=st.integers(0, 4), begin=st.integers(0, 150))
def test_every_stretch_holds_each_part_in_proportion(weights, length, epoch, begin):
    mixture = Mixture(parts_of([30] * len(weights)), weights, length)
    drawn = Counter((mixture(epoch, np.arange(begin, begin + 50))[0] // 30).tolist())
    for number, share in enumerate(mixture.shares):
        assert abs(drawn[number] - share * 50 / length) <= len(weights)
    whole = Counter((mixture(epoch, np.arange(length))[0] // 30).tolist())
    assert [whole[number] for number in range(len(weights))] == mixture.shares


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4), data=st.data())
def test_no_sample_comes_again_before_all_of_its_part_came_over_epochs_and_steps(lengths, data):
    weights = data.draw(st.lists(st.floats(0.5, 5), min_size=len(lengths), max_size=len(lengths)))
    order = Order(Mixture(parts_of(lengths), weights, 96), 12, accumulation=2)
    starts, seen = np.cumsum([0, *lengths]), [[] for _ in lengths]
    for epoch in range(3):
        order.set_epoch(epoch)
        for batch in order:
            for draw in batch:
                part = int(np.searchsorted(starts, draw.index, side="right")) - 1
                seen[part].append((draw.index - starts[part], draw.epoch))
    for length, drawn in zip(lengths, seen, strict=True):
        for number, begin in enumerate(range(0, len(drawn), length)):
            once = drawn[begin : begin + length]
            assert len({index for index, _ in once}) == len(once)
            assert {epoch for _, epoch in once} == {number}, "a sample's crops and masks differ each time that it comes"


@settings(max_examples=30, deadline=None)
@given(weights=WEIGHTS, cuts=st.lists(st.integers(0, 120), max_size=6), epoch=st.integers(0, 9))
def test_a_position_is_drawn_alike_whatever_is_asked_for_with_it(weights, cuts, epoch):
    assume(min(weights) * 120 > sum(weights))  # each part is drawn at least once
    mixture = Mixture(parts_of([17, 5, 40, 9, 1, 3, 8][: len(weights)]), weights, 120)
    whole = np.stack(mixture(epoch, np.arange(120)))
    for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), 120], strict=True):
        if begin < end:
            assert (np.stack(mixture(epoch, np.arange(begin, end))) == whole[:, begin:end]).all()


def test_a_mixture_of_billions_costs_what_a_batch_costs():
    mixture = Mixture(parts_of([10**9, 10**8]), (3, 1), 10**9)
    indices, passes = mixture(5, np.arange(5 * 10**8, 5 * 10**8 + 1024))
    assert (indices < 10**9).sum() == 768 and len(set(indices.tolist())) == 1024
    assert set(passes[indices < 10**9].tolist()) <= {3, 4} and set(passes[indices >= 10**9].tolist()) <= {13, 14}


def test_parts_may_be_shuffled_by_blocks():
    blocks = Blocks(np.array([10, 20, 30, 40, 50, 60, 70, 80]), 1)
    indices, _ = Mixture([blocks, Full(20, 1)], (4, 1), 100)(0, np.arange(50))
    assert len(set((indices[indices < 80] // 10).tolist())) == 4


def test_a_weight_without_a_draw_is_refused():
    with pytest.raises(ValueError, match=r"data\.mixture: of weights 1, 1e-06, 1e-06 is less than one of the 100 draws of an epoch"):
        Mixture(parts_of([5, 5]), (1, 1e-6), 100)


@pytest.fixture
def two(tmp_path):
    write_folder(tmp_path / "a", [f"{number}.png" for number in range(40)])
    write_folder(tmp_path / "b", [f"{number}.png" for number in range(8)])
    return [Ingredient(str(tmp_path / "a"), 1, val_fraction=0.0), Ingredient(str(tmp_path / "b"), 3, val_fraction=0.25)]


def test_every_batch_of_a_mixture_has_its_share_and_repeated_pictures_have_other_keys(two):
    data = Data(mixture=two, batch_size=8, image_size=16, num_workers=0)
    batches = list(data.train_dataloader())
    assert [sum(name.startswith("b/") for name in batch.ids) for batch in batches] == [6] * 5
    keys = [key for batch in batches for key in batch.keys_B.tolist()]
    assert len(set(keys)) == 40 > len({name for batch in batches for name in batch.ids})


def test_names_that_collections_share_begin_with_the_collection(two):
    data = Data(mixture=[Ingredient(two[0].path), Ingredient(two[1].path)], image_size=16, num_workers=0)
    ids = [name for batch in data.predict_dataloader() for name in batch.ids]
    assert sorted(ids) == sorted([f"a/{number}.png" for number in range(40)] + [f"b/{number}.png" for number in range(8)])


def test_names_that_differ_stay(two, tmp_path):
    write_folder(tmp_path / "c", ["x.png", "y.png"])
    data = Data(mixture=[two[0], Ingredient(str(tmp_path / "c"), val_fraction=0)], image_size=16, num_workers=0)
    assert {"0.png", "x.png"} <= {name for batch in data.predict_dataloader() for name in batch.ids}


def test_one_collection_twice_has_two_names(two):
    data = Data(mixture=[two[0], two[0]], image_size=16, num_workers=0)
    ids = [name for batch in data.predict_dataloader() for name in batch.ids]
    assert len(ids) == len(set(ids)) == 80 and f"{two[0].path}#1/0.png" in ids


def test_generated_scenes_can_be_in_a_mixture(two):
    data = Data(mixture=[two[0], Ingredient(format="scenes")], scenes=10, val_scenes=4, image_size=32, num_workers=0)
    summary = data.inspect()
    assert (summary.train, summary.val, summary.format) == (50, 4, "mixture")
    assert summary.path == f"{two[0].path} + generated scenes"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "A", "weight": 0.0}, r"data\.mixture: weight 0\.0 of A must be positive"),
        ({"path": "A", "format": "scenes"}, r"data\.mixture: path A with format scenes"),
        ({}, r"data\.mixture: path None with format auto; give a path"),
    ],
)
def test_ingredients_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Ingredient(**options)
