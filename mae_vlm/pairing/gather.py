"""Tensors of all processes side by side, with their gradients.

Letters: B rows of one process, A rows of all of them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def first_row(rows: int) -> int:
    """Where this process's own ``rows`` begin among those of all; each process has as many."""
    return dist.get_rank() * rows if processes() > 1 else 0


def gather(own: Tensor) -> Tensor:
    """``own`` of all processes in their order ``[A, ...]``; its size must be the same on each.

    What another process's loss says about this process's rows comes back as gradient: with each process's loss over its own rows alone,
    the sum of the gradients over processes is that of one process with all rows (a loss over all rows on each would count it
    once too often for every process).
    """
    if processes() == 1:
        return own
    if not own.is_floating_point():
        parts = [torch.empty_like(own) for _ in range(processes())]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts)
    gathered: Tensor = _Gather.apply(own)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        ctx.rows = len(own)
        parts = [torch.empty_like(own) for _ in range(processes())]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        whole = gradients[0].contiguous()
        if dist.get_backend() == "nccl":
            part = torch.empty_like(whole[: ctx.rows])
            dist.reduce_scatter_tensor(part, whole)
            return part
        whole = whole.clone()  # gloo scatters no sums
        dist.all_reduce(whole)
        return whole[first_row(ctx.rows) : first_row(ctx.rows) + ctx.rows]
