"""Alignment of words and patches: how far a caption's words have to be carried to the picture.

Letters: B pairs, T tokens of a caption, N patches, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.objectives.base import Objective
from mae_vlm.pairing.transport import transport
from mae_vlm.tokens.words import Words
from mae_vlm.types import Batch, Loss, Term


class Alignment(Objective):
    """The cost of the best transport of a caption's tokens to its picture's patches, after fusion (ViLT, arXiv 2102.03334, 3.2).

    Costs are one minus cosines; begin, end and padding are left out; the plan (:func:`mae_vlm.pairing.transport.transport`) is not
    trained through. Only pairs that belong together are looked at, and pull: ViLT subtracts the cost of mismatched ones as well, which
    another objective (matching) keeps apart here. Alone it would be content with making all tokens alike. Logs ``distance``, from 0 to 2.

    Args:
        towers, weight: see :class:`Objective`.
        beta: how soft the plan is: with a smaller one each token goes to fewer patches.
        iterations: of the plan.

    Raises:
        ValueError: a fusion tower is missing, or an option is not positive. One that keeps no tokens is told at the first step.
    """

    def __init__(self, towers: Towers, weight: float = 0.1, beta: float = 0.5, iterations: int = 50) -> None:
        super().__init__(towers, weight)
        self.views = towers.told_fusion().views
        if beta <= 0 or iterations < 1:
            raise ValueError(f"beta {beta} and iterations {iterations} given, both must be positive")
        if not towers.told_fusion().tokens:
            raise ValueError("this fusion tower keeps no tokens, which alignment carries to patches; take another, as CrossAttention")
        self.beta, self.iterations = beta, iterations

    def forward(self, features: Features, batch: Batch) -> Loss:
        fused = features.fused
        if fused.tokens_BTD is None or fused.patches_BND is None:
            raise ValueError("this fusion tower keeps no tokens or no patches, which alignment compares; take another, as CrossAttention")
        real_BT = _inner(features.words)
        with torch.autocast(fused.tokens_BTD.device.type, enabled=False):
            tokens_BTD, patches_BND = (_normed(part) for part in (fused.tokens_BTD, fused.patches_BND))
            cost_BTN = 1 - tokens_BTD @ patches_BND.transpose(1, 2)
            plan_BTN = transport(cost_BTN.detach(), real_BT, self.beta, self.iterations)
            distance_B = (cost_BTN * plan_BTN).sum((1, 2))
        there_B = real_BT.any(1)
        return Loss.of({"distance": Term((distance_B * there_B).sum(), there_B.sum().to(distance_B.dtype))})

    def counts(self, features: Features) -> dict[str, Tensor]:
        return {"distance": _inner(features.words).any(1).sum()}


def _inner(words: Words) -> Tensor:
    """The tokens of words ``[B, T]``: not begin, end and padding, and none where there is no caption."""
    return (words.word_BT >= 0) & words.has_B[:, None]


def _normed(tokens_BTD: Tensor) -> Tensor:
    return functional.normalize(tokens_BTD.to(torch.promote_types(tokens_BTD.dtype, torch.float32)), dim=-1)
