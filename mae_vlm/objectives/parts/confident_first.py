"""Sampling in a few steps, of which each keeps what it is surest of: MaskGIT's (Chang et al. 2022, arXiv 2202.04200, section 3.2).

Letters: B pictures, N patches, K codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mae_vlm.tokens.chance import uniform

_CODE, _SURE = 8100, 8200  # streams of chance, one for each step


def confident_first(
    predict: Callable[[Tensor, Tensor], Tensor], ids_BN: Tensor, hidden_BN: Tensor, keys_B: Tensor, steps: int, temperature: float
) -> Tensor:
    """Codes of all patches, int64 ``[B, N]``: ``ids_BN`` where nothing was hidden, drawn ones elsewhere.

    In each step codes of all hidden patches are drawn from ``predict(ids, hidden)`` (logits ``[B, N, K]``), and those of the lowest
    probability are hidden again: after a share t of the steps the share cos(t pi / 2) of them is still hidden. ``temperature`` is that
    of Gumbel noise on the log of the probability, falling to 0 at the last step: the more of it, the more varied the pictures.

    Raises:
        ValueError: steps outside of 1 to 100, or a negative temperature.
    """
    if not 1 <= steps <= 100 or temperature < 0:
        raise ValueError(f"steps {steps}, temperature {temperature} given, allowed are 1 to 100 steps, and 0 or more")
    total_B1, still_BN = hidden_BN.sum(1, keepdim=True), hidden_BN
    for step in range(steps):
        logits_BNK = predict(ids_BN, still_BN)
        noise_BNK = _gumbel(keys_B, logits_BNK[0].numel(), _CODE + step).view_as(logits_BNK)
        drawn_BN = (logits_BNK + noise_BNK).argmax(-1)
        sure_BN = logits_BNK.log_softmax(-1).gather(2, drawn_BN[..., None])[..., 0]
        sure_BN = sure_BN + temperature * (1 - (step + 1) / steps) * _gumbel(keys_B, sure_BN.shape[1], _SURE + step)
        ids_BN = torch.where(still_BN, drawn_BN, ids_BN)
        left_B1 = (total_B1 * math.cos(math.pi / 2 * (step + 1) / steps)).long() if step + 1 < steps else torch.zeros_like(total_B1)
        rank_BN = sure_BN.masked_fill(~still_BN, torch.inf).argsort(dim=1, stable=True).argsort(dim=1, stable=True)
        still_BN = still_BN & (rank_BN < left_B1)
    return ids_BN


def _gumbel(keys_B: Tensor, count: int, stream: int) -> Tensor:
    drawn: Tensor = uniform(keys_B, count, stream).clamp(1e-7, 1 - 1e-7)
    return -(-drawn.log()).log()
