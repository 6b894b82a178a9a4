"""The contract of an objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn
from torchmetrics import MetricCollection

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.types import Batch, Loss


class Objective(nn.Module, ABC):
    """One training signal. Owns its own weights; reads sizes from the towers when built and keeps no reference to them.

    Where it counts other things than pictures (words, pairs), its loss is made of ``Term`` sums by ``Loss.of``, and :meth:`counts` tells
    beforehand how many there are in a batch: the learner divides by those of all processes and accumulated batches, so that each counts
    the same wherever it is.

    Attributes:
        views: the passes of ``Features`` that it trains through: of ``masked`` and ``full`` pictures, ``text`` and ``fused``, ``second``
            where it wants another view of each picture. The learner counts their arithmetic, and has the data deliver what they need.
        contrasts: whether it holds the pictures of a batch against each other: accumulating batches would not give it more to compare.

    Args:
        towers: the encoders it will see through ``Features``; ``self.towers = towers`` would register their weights twice.
        weight: factor of its loss in the sum, at least 0.

    Raises:
        ValueError: a negative weight.
    """

    views: tuple[str, ...] = ("masked",)
    contrasts: ClassVar[bool] = False

    def __init__(self, towers: Towers, weight: float = 1.0) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f"objective weight {weight} given, allowed is 0 or more")
        self.weight = weight

    @abstractmethod
    def forward(self, features: Features, batch: Batch) -> Loss:
        """The loss of one batch; never logs by itself. What runs must not depend on the data, only on the config."""

    def counts(self, features: Features) -> dict[str, Tensor]:
        """For each term of its loss, how many items of this batch that is a mean over: scalars, known before any tower has run.

        Empty where its loss is a mean over the batch's pictures.
        """
        return {}

    def metrics(self) -> MetricCollection | None:
        """What validation measures over the whole set, fresh; its results are logged as ``val/<objective>/<metric>``. None by default."""
        return None

    def measure(self, metrics: MetricCollection, features: Features) -> None:
        """Add a batch to the metrics; padding counts zero."""

    def after_step(self) -> None:
        """Called after each optimizer step, for queues and momentum."""

    def flops_per_image(self, visible: int) -> int:
        """Operations per picture of a training step in its own weights, forward and backward, with ``visible`` patches unmasked.

        Matrix products, a multiply-add as two; the towers' are counted by the learner. 0 where it has no products of its own.
        """
        return 0

    def pictures(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """Named pictures of what it learns, float in [0, 1] ``[C, H, W]``; none by default."""
        return {}
