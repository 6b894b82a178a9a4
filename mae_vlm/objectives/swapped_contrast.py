"""Contrast by single words: a picture lies nearer to its caption than to the same with one word swapped.

Letters: B pairs, E numbers of an embedding.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.objectives.base import Objective
from mae_vlm.pairing.matched import Longest
from mae_vlm.pairing.swapped import read_wrong, told_wrong
from mae_vlm.types import Batch, Loss, Term


class SwappedContrast(Objective):
    """The loss of telling a caption from the same with one word swapped (:func:`mae_vlm.pairing.swapped.swapped`) by similarity alone.

    The other captions of a batch differ from a picture's own in many words, most batches hold none that differs in one: contrast learns
    to see what tells them apart and no more. Swapped captions as further negatives are NegCLIP's (Yuksekgonul et al. 2022,
    arXiv 2210.01936, section 5); here each is held against its own picture alone. Captions in which no word can be swapped count nothing.
    Logs ``cross_entropy`` and ``accuracy``, how often the right one is nearer.

    Args:
        towers, weight: see :class:`Objective`.
        width, view, pool, image_queries: of the space, see :class:`mae_vlm.encoders.joint.Joint`; as in the objective
            that contrasts the batch.
        scale: what similarities are multiplied with, one over the temperature.

    Raises:
        ValueError: no text tower, another space than another part wants, or a scale that is not positive.
    """

    contrasts: ClassVar[bool] = True  # words come from the captions of the batch

    def __init__(
        self,
        towers: Towers,
        weight: float = 1.0,
        width: int = 256,
        view: str = "full",
        pool: str = "mean",
        scale: float = 14.3,
        image_queries: int = 0,
    ) -> None:
        super().__init__(towers, weight)
        if scale <= 0:
            raise ValueError(f"scale {scale} given, allowed is more than 0, as 14.3")
        towers.join(width, view, pool, image_queries)
        self.views = (view, "text")
        self.scale, self.longest = scale, Longest.of(towers.told_text())

    def forward(self, features: Features, batch: Batch) -> Loss:
        found = features.embedded
        assert found is not None
        wrong_BE = features.placed(read_wrong(features, self.longest))
        counts_B = told_wrong(features, self.longest).there_B
        with torch.autocast(wrong_BE.device.type, enabled=False):
            nearer_B = (found.image_BE * (found.text_BE - wrong_BE)).sum(1)
            loss_B = functional.softplus(-self.scale * nearer_B)
        total = counts_B.sum().to(loss_B.dtype)
        hits = ((nearer_B.detach() > 0) & counts_B).sum().to(loss_B.dtype)
        return Loss.of({"cross_entropy": Term((loss_B * counts_B).sum(), total), "accuracy": Term(hits, total, 0.0)})

    def counts(self, features: Features) -> dict[str, Tensor]:
        total = told_wrong(features, self.longest).there_B.sum()
        return {"cross_entropy": total, "accuracy": total}
