"""Batch normalisation of features that do not learn: the same however a batch is dealt to processes.

Letters: B pictures, F features.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn


class FrozenNorm(nn.Module):
    """``BatchNorm1d(affine=False)``, with the mean and variance of the batch on all processes: on GPUs and CPUs alike.

    No gradient goes through mean and variance, which is exact for features of a frozen encoder and wrong for any others. Of accumulated
    batches each has its own mean and variance, as in the MAE paper's code. In evaluation: running estimates, the same on all processes.

    Args:
        features: their number.
        eps: added to the variance; the MAE paper's code takes 1e-6.
        momentum: share of a batch in the running estimates.
    """

    mean_F: Tensor
    variance_F: Tensor

    def __init__(self, features: int, eps: float = 1e-6, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.register_buffer("mean_F", torch.zeros(features))
        self.register_buffer("variance_F", torch.ones(features))

    def forward(self, features: Tensor) -> Tensor:
        """float32 of the same shape; all but the last dimension (F) are normalised over."""
        features = features.float()
        mean_F, variance_F = self._of(features.detach().flatten(0, -2)) if self.training else (self.mean_F, self.variance_F)
        return (features - mean_F) * (variance_F + self.eps).rsqrt()

    @torch.no_grad()
    def _of(self, rows_BF: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of this batch, which the running estimates learn of."""
        count = rows_BF.new_tensor([float(len(rows_BF))])
        mean_F = summed(torch.cat([rows_BF.sum(0), count]))
        total, mean_F = mean_F[-1], mean_F[:-1] / mean_F[-1]
        variance_F = summed((rows_BF - mean_F).square().sum(0)) / total  # in two passes: E[x^2] - E[x]^2 loses all where the mean is large
        unbiased_F = variance_F * total / (total - 1).clamp(min=1)
        self.mean_F.lerp_(mean_F, self.momentum)
        self.variance_F.lerp_(unbiased_F, self.momentum)
        return mean_F, variance_F


def summed(value: Tensor) -> Tensor:
    """Over all processes."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(value)
    return value
