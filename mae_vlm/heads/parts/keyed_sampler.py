"""Which anchors and proposals of a picture are learned from: a draw that goes by the picture's key alone.

Letters: B pictures, M anchors or proposals of a picture.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mae_vlm.tokens.chance import uniform


class KeyedSampler:
    """At most ``count`` of a picture, ``positive`` of them at most of objects: torchvision's ``BalancedPositiveNegativeSampler`` by keys.

    The same picture in the same epoch gets the same draw, on any process, in any batch, and after a resume.

    Args:
        count, positive: how many of a picture, and the largest share of those with an object.
        keys_B: of the pictures it will be called with.
        stream: another one draws independently.
    """

    def __init__(self, count: int, positive: float, keys_B: Tensor, stream: int) -> None:
        self.count, self.positive, self.keys_B, self.stream = count, positive, keys_B, stream

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Which are drawn, of objects and of background, bool ``[M]`` each for each picture.

        ``labels`` ``[M]`` are positive for an object, 0 for background, negative for what is left out.
        """
        objects, background = [], []
        for key, labels_M in zip(self.keys_B, labels, strict=True):
            lots_M = uniform(key[None], len(labels_M), self.stream)[0]
            objects.append(_lowest(lots_M, labels_M >= 1, int(self.count * self.positive)))
            background.append(_lowest(lots_M, labels_M == 0, self.count - int(objects[-1].sum())))
        return objects, background


def _lowest(lots_M: Tensor, allowed_M: Tensor, most: int) -> Tensor:
    """At most ``most`` of those allowed, with the lowest lots."""
    count = min(most, int(allowed_M.sum()))
    drawn_M = torch.zeros_like(allowed_M)
    drawn_M[lots_M.masked_fill(~allowed_M, 2.0).topk(count, largest=False).indices] = True
    return drawn_M
