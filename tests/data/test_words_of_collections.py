"""Which pictures' words a vocabulary is learned from."""

from itertools import pairwise

import numpy as np
import pytest

from mae_vlm.data import captions
from mae_vlm.data.sources.base import Source
from mae_vlm.types import Sample


class Numbered(Source):
    """Pictures whose captions are their numbers; it keeps what it was asked for."""

    def __init__(self, length, block_ends=None):
        self.length, self.asked = length, []
        self.block_ends = None if block_ends is None else np.asarray(block_ends)

    def __len__(self):
        return self.length

    def name(self, index):
        return str(index)

    def __getitem__(self, index):
        self.asked.append(index)
        return Sample(str(index), b"", captions=(f"number {index}",))


def test_all_of_a_small_collection():
    for source in (Numbered(10), Numbered(10, range(1, 11))):
        assert captions.texts(source, 10) == [f"number {number}" for number in range(10)]


def test_of_a_large_one_pictures_spread_evenly():
    source = Numbered(1000)
    assert len(captions.texts(source, 100)) == 100 and source.asked == list(range(0, 1000, 10))


@pytest.mark.parametrize("length, block", [(10_000, 50), (10_000, 500), (10_000, 5000), (9_999, 10)])
def test_of_one_that_is_read_by_blocks_some_blocks_spread_evenly_and_no_other_one_is_touched(length, block):
    source = Numbered(length, [*range(block, length, block), length])
    captions.texts(source, 400)
    touched = sorted({index // block for index in source.asked})
    blocks = len(source.block_ends)
    assert 300 <= len(source.asked) <= 400 and len({*source.asked}) == len(source.asked) and max(source.asked) < length
    assert len(touched) == min(blocks, max(16, 400 * blocks // length))
    assert max(b - a for a, b in pairwise(touched)) <= -(-blocks // len(touched))
