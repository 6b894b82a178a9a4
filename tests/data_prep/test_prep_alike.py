from __future__ import annotations

import numpy as np
import pytest
from copies import COPIES, scenes, tensor

from data_prep.alike import find_pairs
from data_prep.neighbours import SURE, near_pairs
from data_prep.perceptual_hash import colours, thumbnail


def thumbs(images):
    return np.stack([thumbnail(tensor(image)) for image in images])


def pairs_of(images, mirrored=False):
    sides = np.array([min(image.size) for image in images])
    colour = np.stack([colours(tensor(image)) for image in images])
    return set(map(tuple, find_pairs(thumbs(images), colour, sides, mirrored).pairs.tolist()))


@pytest.fixture(scope="module")
def originals():
    return scenes(60)


@pytest.mark.parametrize("kind", COPIES)
def test_every_planted_copy_is_found_and_nothing_else(originals, kind):
    images = originals + [COPIES[kind](image) for image in originals]
    assert pairs_of(images) == {(number, number + len(originals)) for number in range(len(originals))}


def test_mirrored_copies_are_found_when_asked_for(originals):
    images = originals + [image.transpose(0) for image in originals]  # 0: left to right
    wanted = {(number, number + len(originals)) for number in range(len(originals))}
    assert not wanted & pairs_of(images)
    assert wanted <= pairs_of(images, mirrored=True)


@pytest.mark.parametrize("size", [(32, 32), (128, 128)])
def test_under_one_in_a_hundred_distinct_pictures_is_taken_for_a_copy(size):
    images = scenes(1000, size, seed=5)
    assert len({row for pair in pairs_of(images) for row in pair}) < 0.01 * len(images)


def test_hashes_within_the_promised_distance_are_all_found_without_comparing_all():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**64, 3000, dtype=np.uint64)
    for number in range(1000):
        bits = rng.choice(64, int(rng.integers(0, SURE + 1)), replace=False)
        base[number + 1000] = base[number] ^ np.uint64(sum(1 << int(bit) for bit in bits))
    pairs, crowded = near_pairs(base, base[None])
    distances = np.bitwise_count(base[:, None] ^ base[None])
    wanted = {(i, j) for i, j in np.argwhere(distances <= SURE).tolist() if i < j}
    found = set(map(tuple, pairs.tolist()))
    assert wanted <= found and len(wanted) >= 1000 and crowded == 0
    assert all(distances[i, j] <= 12 for i, j in found)


def test_a_crowd_of_equal_hashes_is_cut_short_and_told():
    pairs, crowded = near_pairs(np.zeros(3000, np.uint64), np.zeros((7, 3000), np.uint64))
    assert crowded == 3000 and 3000 <= len(pairs) < 3000 * 400
    assert set(pairs.ravel().tolist()) == set(range(3000))


def test_few_pictures_and_pictures_of_one_colour_do_no_harm():
    assert len(find_pairs(np.zeros((1, 32, 32), np.uint8), np.zeros((1, 4, 4, 2), np.int8), np.array([9])).pairs) == 0
    assert (
        len(find_pairs(np.zeros((4, 32, 32), np.uint8), np.zeros((4, 4, 4, 2), np.int8), np.full(4, 9)).pairs) == 0
    )  # no likeness can be told
