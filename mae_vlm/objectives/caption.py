"""Captioning: each word of a caption from those before it and the picture."""

from __future__ import annotations

from torch import Tensor

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.objectives.base import Objective
from mae_vlm.pairing.captioning import Captioning, Told
from mae_vlm.types import Batch, Loss


class Caption(Objective):
    """Cross-entropy of each next token (CoCa, arXiv 2205.01917, and BLIP, arXiv 2201.12086), in causal passes of its own.

    Weighs 2 beside a contrast of weight 1, as in CoCa. Logs ``cross_entropy`` and ``accuracy`` over tokens.

    Args:
        towers, weight: see :class:`Objective`.
        smoothing, prompt, picture: see :class:`mae_vlm.pairing.captioning.Captioning`.

    Raises:
        ValueError: a tower is missing or cannot read causally.
    """

    def __init__(self, towers: Towers, weight: float = 2.0, smoothing: float = 0.1, prompt: str = "", picture: bool = True) -> None:
        super().__init__(towers, weight)
        self.views = towers.told_fusion().views
        self.captioning = Captioning(towers, smoothing, prompt, picture)

    def forward(self, features: Features, batch: Batch) -> Loss:
        told = self._told(features)
        return Loss.of(self.captioning.terms(self.captioning(features, told), told.truth_BS, told.counts_BS))

    def counts(self, features: Features) -> dict[str, Tensor]:
        count = self._told(features).counts_BS.sum()
        return {"cross_entropy": count, "accuracy": count}

    def _told(self, features: Features) -> Told:
        make = self.captioning.told
        return features.once(f"captions told after {self.captioning.prompt!r}", lambda: make(features.texts, features.batch.keys_B.device))
