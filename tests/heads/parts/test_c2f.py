"""Promises of mae_vlm.heads.parts.c2f."""

from __future__ import annotations

import torch

from mae_vlm.heads.parts.c2f import C2f, Projector


def test_maps_of_any_size_become_one_of_the_same_size_and_every_weight_takes_part():
    torch.manual_seed(0)
    project = Projector(taps=3, width_in=12, width_out=8)
    maps = [torch.randn(2, 12, 3, 5) for _ in range(3)]
    found = project(maps)
    assert found.shape == (2, 8, 3, 5)
    found.square().sum().backward()
    assert all(weight.grad.abs().max() > 0 for weight in project.parameters() if weight is not project.norm.bias)
    torch.testing.assert_close(found.mean(1), torch.zeros(2, 3, 5), atol=1e-5, rtol=0)


def test_a_picture_is_seen_alike_in_any_batch():
    torch.manual_seed(0)
    project = Projector(taps=2, width_in=12, width_out=8)
    maps = [torch.randn(3, 12, 4, 4) for _ in range(2)]
    torch.testing.assert_close(project([one[1:2] for one in maps]), project(maps)[1:2])


def test_a_map_sees_so_many_cells_around_as_its_convolutions_reach():
    """Three pairs of 3 x 3 convolutions: 6 cells to each side."""
    torch.manual_seed(0)
    block = C2f(4, 8, blocks=3)
    map_BDhw = torch.randn(1, 4, 17, 1, requires_grad=True)
    block(map_BDhw)[0, :, 8].sum().backward()
    assert (map_BDhw.grad.abs().amax(1).flatten() > 0).tolist() == [2 <= row <= 14 for row in range(17)]
