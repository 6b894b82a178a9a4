"""Promises of mae_vlm.heads.parts.pyramid."""

from __future__ import annotations

import pytest
import torch

from mae_vlm.heads.parts.pyramid import SimplePyramid


def a_map(rows: int = 6, columns: int = 4, number: int = 0):
    return torch.randn(2, 16, rows, columns, generator=torch.Generator().manual_seed(number))


def test_each_scale_has_its_resolution_and_the_width_asked_for():
    levels = SimplePyramid(16, 12, (4.0, 2.0, 1.0, 0.5, 0.25))([a_map()])
    assert [tuple(level.shape) for level in levels] == [(2, 12, 24, 16), (2, 12, 12, 8), (2, 12, 6, 4), (2, 12, 3, 2), (2, 12, 2, 1)]


def test_an_odd_side_is_rounded_up_and_a_single_cell_stays_one():
    levels = SimplePyramid(16, 12, (0.5, 0.25))([a_map(5, 1)])
    assert [tuple(level.shape[-2:]) for level in levels] == [(3, 1), (2, 1)]


def test_one_map_for_all_scales_is_that_map_for_each():
    pyramid = SimplePyramid(16, 12)
    for one, each in zip(pyramid([a_map()]), pyramid([a_map()] * 4), strict=True):
        assert torch.equal(one, each)


def test_every_scale_reads_its_own_map_and_a_picture_its_own_alone():
    pyramid, maps = SimplePyramid(16, 12), [a_map(number=number) for number in range(4)]
    before = pyramid(maps)
    maps[1] = torch.stack([maps[1][0], a_map(number=9)[1]])
    changed = [[not torch.equal(old[picture], new[picture]) for picture in (0, 1)] for old, new in zip(before, pyramid(maps), strict=True)]
    assert changed == [[False, False], [False, True], [False, False], [False, False]]


def test_every_weight_learns():
    pyramid = SimplePyramid(16, 12)
    torch.stack([level.square().sum() for level in pyramid([a_map()])]).sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in pyramid.parameters())


@pytest.mark.parametrize(
    "options, told",
    [
        ({"scales": ()}, "scales .* given, allowed are powers of two"),
        ({"scales": (3.0,)}, "scales .3.0,. given, allowed are powers of two"),
        ({"width_in": 2}, "widths 2 in and 12 out given"),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        SimplePyramid(**{"width_in": 16, "width_out": 12} | options)


def test_another_number_of_maps_is_refused():
    with pytest.raises(ValueError, match="2 maps given for 4 scales"):
        SimplePyramid(16, 12)([a_map()] * 2)
