"""Image-text matching by single words: whether a caption is of the picture, or one word of it is another.

Letters: B pairs, R = 2 B, right and wrong ones.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.objectives.base import Objective
from mae_vlm.pairing.matched import Longest, telling
from mae_vlm.pairing.swapped import read_wrong, told_wrong
from mae_vlm.types import Batch, Loss, Term


class SwappedWord(Objective):
    """Right pairs against the same with one word swapped, half and half (:func:`mae_vlm.pairing.swapped.swapped`).

    The wrong pairs of :class:`mae_vlm.objectives.matching.Matching` are other captions of the batch, which differ in many words: a model
    may tell them apart by some and never look at the rest (Yuksekgonul et al. 2022, arXiv 2210.01936). Pairs in whose caption no word can
    be swapped count nothing. Logs ``cross_entropy`` and ``accuracy`` over right and wrong pairs.

    Args:
        towers, weight: see :class:`Objective`.

    Raises:
        ValueError: no fusion tower.
    """

    contrasts: ClassVar[bool] = True  # words come from the captions of the batch

    def __init__(self, towers: Towers, weight: float = 1.0) -> None:
        super().__init__(towers, weight)
        self.views = towers.told_fusion().views
        self.longest = Longest.of(towers.told_text())
        self.head = telling(towers.told_fusion().width)

    def forward(self, features: Features, batch: Batch) -> Loss:
        wrong = features.fuse(read_wrong(features, self.longest))
        pooled_RD = torch.cat([features.fused.pooled_BD, wrong.pooled_BD])
        logits_R2 = self.head(pooled_RD).to(torch.promote_types(pooled_RD.dtype, torch.float32))
        right_R = torch.cat([torch.ones_like(batch.keys_B), torch.zeros_like(batch.keys_B)])
        counts_R = told_wrong(features, self.longest).there_B.repeat(2)
        loss_R = functional.cross_entropy(logits_R2, right_R, reduction="none")
        total = counts_R.sum().to(loss_R.dtype)
        hits = ((logits_R2.detach().argmax(-1) == right_R) & counts_R).sum().to(loss_R.dtype)
        return Loss.of({"cross_entropy": Term((loss_R * counts_R).sum(), total), "accuracy": Term(hits, total, 0.0)})

    def counts(self, features: Features) -> dict[str, Tensor]:
        total = 2 * told_wrong(features, self.longest).there_B.sum()
        return {"cross_entropy": total, "accuracy": total}
