"""Nearest neighbours as a classifier: what frozen features tell without any fitting.

Letters: B pictures, F features, L classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_CELLS = 1 << 24  # cosines that exist at one time: 64 MiB in float32


def nearest_neighbours(
    train_BF: Tensor, labels_B: Tensor, scored_BF: Tensor, scored_labels_B: Tensor, neighbours: int = 20, temperature: float = 0.07
) -> float:
    """Share (0 to 1) of scored pictures that their nearest ``train_BF`` by cosine name, each with the vote exp(cosine / temperature).

    Understates features of masked autoencoders, whose directions are not all of equal use to a cosine: read it beside a linear probe.
    Labels are any numbers from 0 on; a class without a picture in ``train_BF`` is never answered.
    Source: Wu et al. 2018, "Unsupervised feature learning via non-parametric instance discrimination", section 3.4.

    Raises:
        ValueError: nothing to compare with, or nothing to score.
    """
    if not len(labels_B) or not len(scored_labels_B):
        raise ValueError(f"{len(labels_B)} pictures to compare with and {len(scored_labels_B)} to score given: each needs at least one")
    train_BF, scored_BF = _unit(train_BF), _unit(scored_BF)
    known_L, column_B = torch.unique(labels_B, return_inverse=True)
    right = 0
    for rows in torch.split(torch.arange(len(scored_BF), device=scored_BF.device), max(1, _CELLS // len(train_BF))):
        cosine, index = (scored_BF[rows] @ train_BF.T).topk(min(neighbours, len(train_BF)), dim=1)
        votes_BL = cosine.new_zeros(len(rows), len(known_L)).scatter_add_(1, column_B[index], (cosine / temperature).exp())
        right += int((known_L[votes_BL.argmax(1)] == scored_labels_B[rows]).sum())
    return right / len(scored_labels_B)


def _unit(features_BF: Tensor) -> Tensor:
    return functional.normalize(features_BF.to(torch.promote_types(features_BF.dtype, torch.float32)))
