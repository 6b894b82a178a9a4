"""Promises of mae_vlm.heads.parts.deformable."""

from __future__ import annotations

import math

import torch

from mae_vlm.heads.parts.deformable import DeformableAttention, gathered


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def one_by_one(map_BFhw, places_BQnP2, weights_BQnP):
    """The same, cell by cell."""
    pictures, width, rows, columns = map_BFhw.shape
    _, queries, heads, points, _ = places_BQnP2.shape
    part = width // heads
    found = torch.zeros(pictures, queries, width, dtype=map_BFhw.dtype)
    for b in range(pictures):
        for q in range(queries):
            for n in range(heads):
                for p in range(points):
                    x, y = (places_BQnP2[b, q, n, p] * torch.tensor([columns, rows]) - 0.5).tolist()
                    for row in (math.floor(y), math.floor(y) + 1):
                        for column in (math.floor(x), math.floor(x) + 1):
                            if 0 <= row < rows and 0 <= column < columns:
                                share = (1 - abs(y - row)) * (1 - abs(x - column)) * weights_BQnP[b, q, n, p]
                                found[b, q, n * part : (n + 1) * part] += share * map_BFhw[b, n * part : (n + 1) * part, row, column]
    return found


def test_it_is_the_sum_over_the_four_cells_around_each_place():
    map_BFhw, weights = drawn(2, 6, 3, 5), drawn(2, 4, 3, 2, seed=1).softmax(-1)
    places = torch.rand(2, 4, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 1.4 - 0.2  # some lie outside
    torch.testing.assert_close(gathered(map_BFhw, places, weights), one_by_one(map_BFhw, places, weights))


def test_its_gradients_are_right():
    places = (torch.rand(1, 2, 2, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 0.9 + 0.05).requires_grad_()
    inputs = drawn(1, 4, 3, 4).requires_grad_(), places, drawn(1, 2, 2, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(gathered, inputs)


def test_half_precision_maps_are_sampled_at_exact_places():
    map_BFhw, weights = drawn(1, 2, 4, 400).bfloat16(), torch.ones(1, 1, 1, 1)
    found = gathered(map_BFhw, torch.tensor([0.7013, 0.5]).view(1, 1, 1, 1, 2), weights)
    torch.testing.assert_close(found, gathered(map_BFhw.double(), torch.tensor([0.7013, 0.5]).view(1, 1, 1, 1, 2), weights).float())
    assert found.dtype == torch.float32


def test_at_first_each_head_looks_its_own_way_within_the_box():
    """Four heads look to the right, down, to the left and up, at a half and at the whole way from the centre to the box's side."""
    attention = DeformableAttention(4, heads=4, points=2)
    for layer in (attention.values, attention.out):
        torch.nn.init.eye_(layer.weight)
    rows = columns = 40
    across = (torch.arange(columns) + 0.5) / columns
    map_BFhw = torch.stack([across.expand(rows, columns), across[:, None].expand(rows, columns)] * 2)[None]
    found = attention(torch.zeros(1, 1, 4), torch.tensor([[[0.5, 0.4, 0.2, 0.4]]]), map_BFhw)
    torch.testing.assert_close(found[0, 0], torch.tensor([0.5 + 0.075, 0.4 + 0.15, 0.5 - 0.075, 0.4 - 0.15]))
