"""Recall of retrieval between pictures and texts, over a whole set.

Letters: Q queries, G gallery, E numbers of an embedding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

_AT_ONCE = 1024  # queries whose similarities to the whole gallery are held in memory


class Recall(Metric):
    """Share of pictures whose nearest text is one of theirs, and of texts whose nearest picture is theirs: a hit within the first ``k``.

    Update with normed embeddings of both ``[B, E]``, int64 identities ``[B, 2]`` of picture and text, and which rows count. What has the
    same picture or the same text counts as right. Every process keeps its own rows, all are put together for the result.
    """

    full_state_update = False
    images: list[Tensor]
    texts: list[Tensor]
    who: list[Tensor]

    def __init__(self, ranks: tuple[int, ...] = (1,), **named: Any) -> None:
        super().__init__(**named)
        self.ranks = ranks
        for name in ("images", "texts", "who"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, image_BE: Tensor, text_BE: Tensor, who_B2: Tensor, counts_B: Tensor) -> None:
        self.images.append(image_BE[counts_B].detach().float())
        self.texts.append(text_BE[counts_B].detach().float())
        self.who.append(who_B2[counts_B])

    def compute(self) -> dict[str, Tensor]:
        image_GE, text_GE, who_G2 = (_joined(parts) for parts in (self.images, self.texts, self.who))
        found: dict[str, Tensor] = {}
        for name, query_QE, gallery_GE in (("text_to_image", text_GE, image_GE), ("image_to_text", image_GE, text_GE)):
            rank_Q = ranks(query_QE, gallery_GE, who_G2, who_G2)
            found |= {f"{name}_r{k}": (rank_Q < k).float().mean() if len(rank_Q) else rank_Q.new_zeros(()).float() for k in self.ranks}
        return found


def ranks(query_QE: Tensor, gallery_GE: Tensor, who_Q2: Tensor, who_G2: Tensor) -> Tensor:
    """For each query, how many of the gallery that are not right are at least as near as the nearest right one ``[Q]``, int64.

    Ties count against it: a model that gives all the same embedding finds nothing.
    """
    parts = []
    for start in range(0, len(query_QE), _AT_ONCE):
        near_QG = query_QE[start : start + _AT_ONCE] @ gallery_GE.T
        right_QG = (who_Q2[start : start + _AT_ONCE, None] == who_G2[None]).any(-1)
        best_Q1 = near_QG.masked_fill(~right_QG, -torch.inf).amax(1, keepdim=True)
        parts.append(((near_QG >= best_Q1) & ~right_QG).sum(1))
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64, device=query_QE.device)


def _joined(parts: Any) -> Tensor:
    """A list of rows, or what torchmetrics has made of it already."""
    if isinstance(parts, Tensor):
        return parts
    return torch.cat(parts) if parts else torch.zeros(0, 1)
