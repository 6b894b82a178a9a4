"""Optimal transport of words to patches.

Letters: B pairs, T tokens of a text, N patches.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def transport(cost_BTN: Tensor, real_BT: Tensor, beta: float = 0.5, iterations: int = 50) -> Tensor:
    """How much of each token goes to each patch ``[B, T, N]``: 1 in all, as much from each real token, as much to each patch.

    Inexact proximal point method (IPOT: Xie et al. 2018, arXiv 1802.04307, algorithm 1 with one inner step): each iteration is a Sinkhorn
    step on the last plan, so that the plan tends to the exact one however large ``beta`` is. Zeros where a text has no real token.
    """
    tokens, patches = real_BT.sum(1).clamp(min=1)[:, None], cost_BTN.shape[2]
    real_BT1 = real_BT[..., None].to(cost_BTN.dtype)
    kernel_BTN = (-cost_BTN / beta).exp() * real_BT1
    plan_BTN = real_BT1.expand_as(cost_BTN)
    column_BN = torch.full_like(cost_BTN[:, 0], 1 / patches)
    tiny = torch.finfo(cost_BTN.dtype).tiny
    for _ in range(iterations):
        mixed_BTN = kernel_BTN * plan_BTN
        row_BT = real_BT / (tokens * (mixed_BTN * column_BN[:, None]).sum(2)).clamp(min=tiny)
        column_BN = 1 / (patches * (mixed_BTN * row_BT[..., None]).sum(1)).clamp(min=tiny)
        plan_BTN = row_BT[..., None] * mixed_BTN * column_BN[:, None]
    return plan_BTN * real_BT.any(1)[:, None, None]
