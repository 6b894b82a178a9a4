"""The space that pictures and texts share: where a caption lies near its picture.

Letters: B pairs, E numbers of an embedding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mae_vlm.encoders.query_pool import QueryPool
from mae_vlm.encoders.text.base import POOLS, EncodedText
from mae_vlm.types import Encoded


class Embedded(NamedTuple):
    """Normed embeddings of pictures and of texts, ``[B, E]`` each, in float32 or better."""

    image_BE: Tensor
    text_BE: Tensor


class Joint(nn.Module):
    """A projection of each tower's pooled feature onto the unit sphere.

    Pictures are the mean of their normed patch tokens, or what a few queries find in them; of which view, and how texts are pooled, goes
    with the weights.

    Args:
        image_width, text_width: of the towers.
        width: numbers of an embedding (E).
        view: ``full``, or ``masked``: the visible patches alone, as FLIP (arXiv 2212.00794) does it, at a fraction of the cost.
        pool: a text's feature: of its ``first`` token, its ``end`` token or their ``mean``.
        image_queries: learned queries that pool a picture's patches (:class:`QueryPool`), for small things in it; 0 is the mean.

    Raises:
        ValueError: another view or pool, or fewer queries than 0.
    """

    def __init__(
        self, image_width: int, text_width: int, width: int = 256, view: str = "full", pool: str = "mean", image_queries: int = 0
    ) -> None:
        super().__init__()
        if view not in ("full", "masked") or pool not in POOLS or image_queries < 0:
            raise ValueError(
                f"view {view!r}, pool {pool!r} and image_queries {image_queries} given, allowed are full and masked, {', '.join(POOLS)}, "
                "and 0 or more"
            )
        self.width, self.view, self.pool, self.image_queries = width, view, pool, image_queries
        self.look = QueryPool(image_width, image_queries) if image_queries else None
        self.image = nn.Linear(image_width if self.look is None else self.look.width, width, bias=False)
        self.text = nn.Linear(text_width, width, bias=False)
        for layer in (self.image, self.text):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)

    def of_image(self, encoded: Encoded) -> Tensor:
        """Embeddings of pictures ``[B, E]``."""
        patches_BND = encoded.patches_BND
        return _normed(self.image(patches_BND.mean(1) if self.look is None else self.look(patches_BND)))

    def of_text(self, encoded: EncodedText) -> Tensor:
        """Embeddings of texts ``[B, E]``."""
        return _normed(self.text(encoded.pooled(self.pool)))


def _normed(embedding_BE: Tensor) -> Tensor:
    with torch.autocast(embedding_BE.device.type, enabled=False):
        return functional.normalize(embedding_BE.to(torch.promote_types(embedding_BE.dtype, torch.float32)), dim=-1)
