"""The contract of an objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from mae_vlm.encoders.towers import Features, Towers
from mae_vlm.types import Batch, Loss


class Objective(nn.Module, ABC):
    """One training signal. Owns its own weights; reads sizes from the towers when built and keeps no reference to them.

    Attributes:
        views: the passes of ``Features`` that it trains through, ``masked`` or ``full`` or both; the learner counts their arithmetic.

    Args:
        towers: the encoders it will see through ``Features``; ``self.towers = towers`` would register their weights twice.
        weight: factor of its loss in the sum, at least 0.

    Raises:
        ValueError: a negative weight.
    """

    views: ClassVar[tuple[str, ...]] = ("masked",)

    def __init__(self, towers: Towers, weight: float = 1.0) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f"objective weight {weight} given, allowed is 0 or more")
        self.weight = weight

    @abstractmethod
    def forward(self, features: Features, batch: Batch) -> Loss:
        """The loss of one batch; never logs by itself. What runs must not depend on the data, only on the config."""

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
