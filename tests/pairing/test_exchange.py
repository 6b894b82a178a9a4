"""Promises of mae_vlm.pairing.exchange. Letters as there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.distributed as dist
from process_pool import on_pool

from mae_vlm.pairing.exchange import routes
from mae_vlm.pairing.gather import first_row, gather, processes

ROWS, WANTED = 3, 4


def tables(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of all, and which of them each process wants, the first and the last of all again and again, one process's never."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(count * ROWS, 2, 5, generator=draw, dtype=torch.float64)
    wanted = torch.randint(0, count * ROWS, (2, count, WANTED), generator=draw)
    wanted[wanted // ROWS == 1] = 0
    return rows, wanted


def traded() -> list[np.ndarray]:
    """What this process fetches by two routes, and the gradient of its rows, by exchange and by gathering all."""
    rows, wanted = tables(processes())
    rank = dist.get_rank() if processes() > 1 else 0
    found = []
    for exchange in (True, False):
        own = rows[first_row(ROWS) : first_row(ROWS) + ROWS].clone().requires_grad_()
        ways = routes(ROWS, *(one[rank] for one in wanted))
        fetched = [way.fetch(own) for way in ways] if exchange else [gather(own)[one[rank]] for one in wanted]
        weight = torch.arange(float(fetched[0].numel()), dtype=torch.float64).view_as(fetched[0]) + rank
        sum((one * weight * (number + 1)).sum() for number, one in enumerate(fetched)).backward()
        found += [torch.cat(fetched).detach().numpy(), own.grad.numpy()]
    return found


@pytest.mark.parametrize("count", [2, 4])
def test_rows_and_gradients_are_those_of_gathering_all(count):
    rows, wanted = tables(count)
    for rank, (rows_found, gradient, _, gradient_wanted) in enumerate(on_pool(count, traded)):
        np.testing.assert_array_equal(rows_found, rows[wanted[:, rank].flatten()].numpy())
        np.testing.assert_allclose(gradient, gradient_wanted, rtol=0, atol=1e-12)
        assert (gradient_wanted != 0).any() == (rank != 1)


def halves() -> bool:
    """Whether rows in half precision arrive as they are."""
    rows, wanted = tables(processes())
    own = rows[first_row(ROWS) : first_row(ROWS) + ROWS].bfloat16()
    (way,) = routes(ROWS, wanted[0, dist.get_rank()])
    return torch.equal(way.fetch(own), rows[wanted[0, dist.get_rank()]].bfloat16())


def test_rows_in_half_precision_arrive_as_they_are():
    assert on_pool(2, halves) == [True, True]


def test_one_process_takes_its_own():
    rows_found, gradient, wanted, gradient_wanted = traded()
    np.testing.assert_array_equal(rows_found, wanted)
    np.testing.assert_array_equal(gradient, gradient_wanted)
