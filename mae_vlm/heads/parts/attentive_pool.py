"""One learned query that looks at all tokens of a picture.

Letters: B pictures, N tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AttentivePool(nn.Module):
    """Attentive pooling: one multi-head attention with one learned query, ``[B, N, D]`` to ``[B, D]``.

    The least form of what Chen et al. 2022 (arXiv 2202.03026, "Context autoencoder", attentive probing) take for frozen features.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, 1, width))
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        nn.init.trunc_normal_(self.query, std=0.02)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        found_B1D, _ = self.attention(self.query.expand(len(tokens_BND), -1, -1), tokens_BND, tokens_BND, need_weights=False)
        pooled_BD: Tensor = found_B1D[:, 0]
        return pooled_BD
