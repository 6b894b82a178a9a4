"""The loss of a set of queries against a set of objects, at sampled points.

Letters: B pictures, Q queries, L classes, N objects of a picture, M pairs of query and object in a batch, P points, h, w cells of a
predicted mask, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mae_vlm.heads.parts.matching import assign, mask_costs
from mae_vlm.heads.parts.point_loss import OVERSAMPLE, UNCERTAIN, chosen_points, logits_at, mask_losses, random_points, truth_at

MATCH, CANDIDATES, RANDOM = range(3)  # streams of chance
STREAMS = 3
WEIGHTS = (2.0, 5.0, 5.0)  # of class, binary cross-entropy and Dice, in the costs and in the loss


class Truth(NamedTuple):
    """The objects of one picture: bool masks ``[N, H, W]`` and class numbers ``[N]``."""

    masks: Tensor
    classes: Tensor


class Output(NamedTuple):
    """What the queries say at one depth: class logits ``[B, Q, L + 1]``, the last of no object, and mask logits ``[B, Q, h, w]``."""

    classes: Tensor
    masks: Tensor


Pairs = list[tuple[Tensor, Tensor]]  # for each picture: the queries, and the objects that they answer for


@torch.no_grad()
def matched(outputs: Sequence[Output], truths: Sequence[Truth | None], keys_B: Tensor, points: int) -> list[Pairs]:
    """For each output which query answers for which object of each picture, none where its truth is None."""
    costs, empty = [], torch.zeros(0, dtype=torch.int64, device=keys_B.device)
    for number, output in enumerate(outputs):
        points_BP2 = random_points(keys_B, points, STREAMS * number + MATCH)
        said_BQP = logits_at(output.masks.float(), points_BP2)
        for truth, logits_QL, said_QP, points_P2 in zip(truths, output.classes, said_BQP, points_BP2, strict=True):
            if truth is not None:
                rows_N = torch.arange(len(truth.classes), device=keys_B.device)
                costs.append(mask_costs(logits_QL, said_QP, truth.classes, truth_at(truth.masks, rows_N, points_P2[None]), WEIGHTS))
    found = iter(assign(costs))
    return [[(empty, empty) if truth is None else next(found) for truth in truths] for _ in outputs]


def class_sum(logits_BQL: Tensor, pairs: Pairs, truths: Sequence[Truth | None], no_object: float) -> Tensor:
    """Cross-entropy summed over the queries of pictures with a truth; those without an object weigh ``no_object``."""
    nothing = logits_BQL.shape[2] - 1
    target_BQ = torch.full(logits_BQL.shape[:2], nothing, dtype=torch.int64, device=logits_BQL.device)
    for row_Q, (query_M, object_M), truth in zip(target_BQ, pairs, truths, strict=True):
        if truth is None:
            row_Q.fill_(-100)
        else:
            row_Q[query_M] = truth.classes[object_M]
    weight_L = torch.ones(nothing + 1, device=logits_BQL.device)
    weight_L[nothing] = no_object
    return functional.cross_entropy(logits_BQL.float().transpose(1, 2), target_BQ, weight_L, ignore_index=-100, reduction="sum")


def mask_sums(
    masks_BQhw: Tensor, pairs: Pairs, truths: Sequence[Truth | None], keys_B: Tensor, points: int, number: int
) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy and Dice loss summed over the pairs, of the output ``number``.

    Where there is no pair 0, with a gradient of 0 for all that the masks were made of. The masks of a picture share their candidates.
    """
    count_B = [len(query_M) for query_M, _ in pairs]
    if not sum(count_B):
        nothing = masks_BQhw.flatten()[:0].float().sum()
        return nothing, nothing
    picture_M = torch.repeat_interleave(torch.arange(len(pairs), device=keys_B.device), torch.tensor(count_B, device=keys_B.device))
    said_Mhw = masks_BQhw[picture_M, torch.cat([query_M for query_M, _ in pairs])].float()
    doubtful = int(UNCERTAIN * points)
    candidates_BC2 = random_points(keys_B, OVERSAMPLE * points, STREAMS * number + CANDIDATES)
    random_BR2 = random_points(keys_B, points - doubtful, STREAMS * number + RANDOM)
    points_MP2 = chosen_points(said_Mhw, candidates_BC2[picture_M], random_BR2[picture_M], points)
    own = zip(torch.split(points_MP2, count_B), pairs, truths, strict=True)
    true_MP = torch.cat([truth_at(truth.masks, object_M, points_mP2) for points_mP2, (_, object_M), truth in own if truth is not None])
    entropy_M, dice_M = mask_losses(logits_at(said_Mhw[:, None], points_MP2)[:, 0], true_MP)
    return entropy_M.sum(), dice_M.sum()
