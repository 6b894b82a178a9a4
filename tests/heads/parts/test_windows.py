"""Promises of mae_vlm.heads.parts.windows."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.heads.parts.windows import corners, through_windows
from mae_vlm.types import Batch


def features_of(count: int, size: tuple[int, int]) -> tuple[Features, Towers]:
    """Pictures of this size, and towers that take 16 x 24 pixels in patches of 8."""
    towers = Towers(Vit(width=8, depth=1, heads=2, patch=8, image_size=(16, 24)))
    images = torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    flags = torch.ones(count, dtype=torch.bool)
    return Features(towers, Batch(images, torch.arange(count), flags, torch.full((count,), -1))), towers


@pytest.mark.parametrize("size", [(16, 32), (32, 24), (40, 72)], ids=str)
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.9])
def test_windows_put_together_what_each_sees_in_its_place(size, overlap):
    """What is seen of a cell does not depend on the window here: the whole picture's must come out."""
    features, towers = features_of(2, size)

    def see(window: Features) -> torch.Tensor:
        assert window.batch.images_BCHW.shape[-2:] == (16, 24)
        return functional.avg_pool2d(window.images_BCHW, 4)  # two cells for each patch, down and across

    found = through_windows(features, towers.image.space, see, overlap)
    torch.testing.assert_close(found, functional.avg_pool2d(features.images_BCHW, 4), rtol=0, atol=1e-5)


def test_windows_that_disagree_blend_into_each_other():
    """Each says another number everywhere: a plain mean would jump by half of it where one ends."""
    features, towers = features_of(1, (16, 48))
    said = iter(range(10))
    line = through_windows(features, towers.image.space, lambda window: torch.full((1, 1, 16, 24), float(next(said))))[0, 0, 8]
    assert len(line) == 48 and line[0] == 0 and line[-1] == 2
    assert line.diff().min() >= 0 and line.diff().max() < 0.15


def test_windows_are_as_few_as_overlap_allows_and_reach_both_ends():
    assert corners(4, 4, 0.5) == [0]
    assert corners(8, 4, 0.5) == [0, 2, 4] and corners(8, 4, 0.0) == [0, 4]
    for canvas in range(4, 40):
        for overlap in (0.0, 0.3, 0.5, 0.99):
            found = corners(canvas, 4, overlap)
            assert found[0] == 0 and found[-1] == canvas - 4
            assert all(0 < right - left <= 4 for left, right in itertools.pairwise(found))
