"""A weighted mean over a whole validation set and all processes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class WeightedMean(Metric):
    """Mean of batch means, each weighted by its number of real pictures; NaN stays NaN.

    torchmetrics' own MeanMetric (1.9) drops the weights with ``nan_strategy="disable"``, and drops NaN with every other strategy,
    so that a broken model would show a good loss.
    """

    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("weight", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, value: Tensor, weight: Tensor) -> None:
        """Add the mean ``value`` (scalar) of ``weight`` pictures; a batch without real pictures counts zero whatever its value."""
        self.total += torch.where(weight > 0, value.double() * weight, torch.zeros_like(self.total))
        self.weight += weight

    def compute(self) -> Tensor:
        """The mean so far, float32; NaN if nothing was added."""
        return (self.total / self.weight).float()
