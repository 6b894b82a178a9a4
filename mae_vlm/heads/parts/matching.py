"""Which query answers for which object: the cheapest one-to-one assignment.

Letters: Q queries, N objects, P points, L classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

_WORST = 1e9  # instead of what is no number: such a pair is taken only where nothing else is left


@torch.no_grad()
def mask_costs(logits_QL: Tensor, points_QP: Tensor, classes_N: Tensor, truth_NP: Tensor, weights: tuple[float, float, float]) -> Tensor:
    """What it costs to let each query answer for each object: float32 ``[Q, N]``.

    ``weights`` are of minus the probability of the object's class, of the binary cross-entropy and of the Dice loss between the mask
    (logits ``points_QP``, truth 0 to 1) at the same P points. Source: Mask2Former (Cheng et al. 2022, arXiv 2112.01527, section 3.3).
    """
    points_QP, truth_NP = points_QP.float(), truth_NP.float()
    class_QN = -logits_QL.float().softmax(-1)[:, classes_N]
    entropy_QN = (functional.softplus(points_QP).sum(-1)[:, None] - points_QP @ truth_NP.T) / points_QP.shape[1]
    shares_QP = points_QP.sigmoid()
    dice_QN = 1 - (2 * shares_QP @ truth_NP.T + 1) / (shares_QP.sum(-1)[:, None] + truth_NP.sum(-1) + 1)
    return weights[0] * class_QN + weights[1] * entropy_QN + weights[2] * dice_QN


def assign(costs: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """For each cost matrix ``[Q, N]`` the queries and objects of the cheapest pairs, int64 ``[min(Q, N)]`` on the costs' device.

    Costs that are no number, or infinite, count as very large. All matrices leave the device in one transfer, and all pairs return in one.
    """
    if not costs:
        return []
    flat = torch.cat([cost.flatten() for cost in costs]).nan_to_num(_WORST, _WORST, _WORST).cpu().double().numpy()
    ends = np.cumsum([cost.numel() for cost in costs])[:-1]
    pairs = [linear_sum_assignment(part.reshape(cost.shape)) for part, cost in zip(np.split(flat, ends), costs, strict=True)]
    joined_2M = torch.from_numpy(np.concatenate([np.stack(pair) for pair in pairs], axis=1).astype(np.int64)).to(costs[0].device)
    parts = torch.split(joined_2M, [len(rows) for rows, _ in pairs], dim=1)
    return [(part[0], part[1]) for part in parts]
