"""How masked attention is given up in the course of a run, block after block (EoMT: Kerssies et al. 2025, arXiv 2503.19108, section 3.3).

Letters: B pictures, Q queries, N patches, T tokens, h, w patches down and across.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mae_vlm.tokens.chance import uniform

_POWER = 0.9


def masked_share(block: int, blocks: int, progress: float) -> float:
    """The share of queries that are masked in ``block`` of the last ``blocks`` when ``progress`` (0 to 1) of the run is over.

    1 up to (block + 1) / (blocks + 2) of the run, 0 from (block + 2) / (blocks + 2) on, in between (1 - part)^0.9: the first and the last
    part of the run are wholly masked and wholly open, and no length has to be set by hand.
    """
    part = progress * (blocks + 2) - (block + 1)
    return float((1 - min(max(part, 0.0), 1.0)) ** _POWER)


@torch.no_grad()
def attention_mask(masks_BQHW: Tensor, grid: tuple[int, int], prefix: int, share: float, keys_B: Tensor, stream: int) -> Tensor | None:
    """Who may look at whom, bool ``[B, 1, T, T]`` of queries, ``prefix`` tokens and patches in that order; None for everybody at everybody.

    A query looks at the patches that its mask (logits at any size) covers, and at all queries and prefix tokens, so that no row is empty;
    everything else looks at everything. Of the queries a ``share`` is masked, drawn from ``keys_B`` and ``stream``.
    """
    if share <= 0:
        return None
    count = masks_BQHW.shape[1]
    covered_BQN = functional.interpolate(masks_BQHW.float(), size=grid, mode="bilinear").flatten(2) > 0
    if share < 1:
        covered_BQN |= (uniform(keys_B, count, stream) >= share)[..., None]
    tokens = count + prefix + covered_BQN.shape[2]
    seen_BTT = torch.ones(len(covered_BQN), tokens, tokens, dtype=torch.bool, device=covered_BQN.device)
    seen_BTT[:, :count, count + prefix :] = covered_BQN
    return seen_BTT[:, None]
