"""From a token's features to the word that belongs there.

Letters: D width, V tokens of the vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class WordHead(nn.Module):
    """BERT's output layers: linear, GELU, norm, and the words' own embedding as the last matrix, with a bias (arXiv 1810.04805).

    Args:
        width: of the features (D).
        table_width: of the word embedding.
        vocabulary: how many tokens it tells apart (V).
    """

    def __init__(self, width: int, table_width: int, vocabulary: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, table_width)
        self.norm = nn.LayerNorm(table_width, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        nn.init.normal_(self.dense.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)

    def forward(self, tokens_BSD: Tensor, table_VD: Tensor) -> Tensor:
        """Logits ``[B, S, V]``; ``table_VD`` is the text tower's word embedding, of which no copy is kept here."""
        return functional.linear(self.norm(functional.gelu(self.dense(tokens_BSD))), table_VD[: len(self.bias)], self.bias)
