"""A few learned queries that look for their own things in a picture.

Letters: B pictures, N tokens, Q queries, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class QueryPool(nn.Module):
    """Tokens ``[B, N, D]`` to ``[B, Q * D]``: Q weighted means of the normed tokens, side by side, each by its own learned softmax.

    The annotation matrix of Lin et al. 2017 (arXiv 1703.03130, section 2) without its hidden layer. Where things are small, the mean over
    all tokens holds little of them: a query finds them wherever they are.
    """

    def __init__(self, width: int, queries: int) -> None:
        super().__init__()
        self.norm, self.score = nn.LayerNorm(width), nn.Linear(width, queries, bias=False)
        self.width = queries * width
        nn.init.normal_(self.score.weight, std=width**-0.5)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        tokens_BND = self.norm(tokens_BND)
        weights_BNQ = self.score(tokens_BND).softmax(dim=1)
        return torch.einsum("bnq,bnd->bqd", weights_BNQ, tokens_BND).flatten(1)
