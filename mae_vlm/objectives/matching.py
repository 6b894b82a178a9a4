"""Image-text matching: whether a picture and a caption belong together.

Letters: R pairs, right and wrong ones.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.objectives.base import Objective
from mae_vlm.pairing.matched import Longest, count, matched, telling
from mae_vlm.pairing.pairs import pairs
from mae_vlm.types import Batch, Loss, Term


class Matching(Objective):
    """Right pairs against wrong ones, one wrong caption for each picture and one wrong picture for each caption (ALBEF, section 3.2).

    Wrong ones are drawn over all processes in proportion to the softmax of their similarity where an objective trains it, else
    evenly; never what shows the same picture or says the same words. Where there is none, the pair counts alone. Logs ``cross_entropy``
    and ``accuracy`` over right and wrong pairs.

    Args:
        towers, weight: see :class:`Objective`.
        scale: what similarities are multiplied with before the softmax: higher draws harder ones.

    Raises:
        ValueError: no fusion tower, or a negative scale.
    """

    contrasts: ClassVar[bool] = True

    def __init__(self, towers: Towers, weight: float = 1.0, scale: float = 14.3) -> None:
        super().__init__(towers, weight)
        if scale < 0:
            raise ValueError(f"scale {scale} given, allowed is 0 (drawn evenly) or more")
        self.views = towers.told_fusion().views
        self.scale, self.longest = scale, Longest.of(towers.told_text())
        self.head = telling(towers.told_fusion().width)

    def forward(self, features: Features, batch: Batch) -> Loss:
        found = matched(features, pairs(features), self.head, self.scale, self.longest)
        loss_R = functional.cross_entropy(found.logits_R2, found.right_R, reduction="none")
        total = found.counts_R.sum().to(loss_R.dtype)
        hits = ((found.logits_R2.detach().argmax(-1) == found.right_R) & found.counts_R).sum().to(loss_R.dtype)
        return Loss.of({"cross_entropy": Term((loss_R * found.counts_R).sum(), total), "accuracy": Term(hits, total, 0.0)})

    def counts(self, features: Features) -> dict[str, Tensor]:
        total = count(pairs(features))
        return {"cross_entropy": total, "accuracy": total}
