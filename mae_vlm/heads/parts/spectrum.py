"""How much room features take up: three numbers that fall when they collapse. Alarms, not scores: none of them tells quality.

Letters: B pictures, F features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

_CELLS = 1 << 24  # products that exist at one time


def effective_rank(features_BF: Tensor) -> float:
    """Exp of the entropy of the singular values over their sum: k for k equal ones, 0 for no feature at all.

    Of the matrix as given: centre it, or the common mean counts as a direction. Rounding noise has a high rank too: features that
    are equal but for it are told by :func:`deviation`.
    Source: Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality", definition 1.
    """
    values = torch.linalg.svdvals(_floats(features_BF))
    if not values.sum() > 0:
        return 0.0
    share = values / values.sum()
    return float(torch.special.entr(share).sum().exp())


def deviation(features_BF: Tensor) -> float:
    """Deviation of each feature over the pictures, of features scaled to length 1, mean over features, times the root of F.

    1 for directions spread evenly, 0 when all pictures have the same. Source: Chen and He 2021, "Exploring simple siamese
    representation learning", section 4.1 (there without the factor).
    """
    unit_BF = functional.normalize(_floats(features_BF))
    return float(unit_BF.std(dim=0, correction=0).mean()) * math.sqrt(features_BF.shape[1])


def uniformity(features_BF: Tensor) -> float:
    """Log of the mean of exp(-2 |x - y|^2) over pairs of different pictures, of features scaled to length 1.

    0 when all are the same, about -4 when spread evenly over a sphere of many dimensions. Source: Wang and Isola 2020,
    "Understanding contrastive representation learning through alignment and uniformity on the hypersphere", section 4.1.2, t = 2.

    Raises:
        ValueError: fewer than two pictures.
    """
    count = len(features_BF)
    if count < 2:
        raise ValueError(f"{count} picture given, a pair is needed")
    unit_BF = functional.normalize(_floats(features_BF))
    sums = []
    for rows in torch.split(torch.arange(count, device=features_BF.device), max(1, _CELLS // count)):
        exponent = 4 * (unit_BF[rows] @ unit_BF.T) - 4  # -2 |x - y|^2 of unit vectors
        exponent.scatter_(1, rows[:, None], -math.inf)
        sums.append(exponent.flatten().logsumexp(dim=0))
    return float(torch.stack(sums).logsumexp(dim=0)) - math.log(count * (count - 1))


def _floats(features: Tensor) -> Tensor:
    return features.to(torch.promote_types(features.dtype, torch.float32))
