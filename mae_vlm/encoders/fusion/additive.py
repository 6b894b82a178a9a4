"""A question that is asked of all words and patches, again in the light of the answers.

Letters: B pairs, T tokens of a text, N patches of a picture, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mae_vlm.encoders.arithmetic import blocks, linear
from mae_vlm.encoders.fusion.base import Fused, Fusion
from mae_vlm.encoders.passes import Held
from mae_vlm.encoders.text.base import EncodedText
from mae_vlm.encoders.towers import Towers
from mae_vlm.types import Encoded


class Additive(Fusion):
    """Additive attention (Bahdanau et al. 2014, arXiv 1409.0473, A.1.2) over both modalities' tokens to one feature, in rounds.

    A learned query looks at the words and at the patches, ``v . tanh(W token + U query)`` each; what it finds is added to it, and the next
    round asks with that (stacked attention: Yang et al. 2016, arXiv 1511.02274, equations 15 to 21; there of patches alone). Attention
    is linear in the tokens, of which it keeps none.

    Args:
        towers: the two.
        width: of the feature; None takes the text tower's.
        rounds: how often it looks; from the second on what one modality says decides what is looked at in the other.

    Raises:
        ValueError: no text tower, or sizes below 1.
    """

    tokens = False
    causal = False

    def __init__(self, towers: Towers, width: int | None = None, rounds: int = 2) -> None:
        super().__init__()
        text, image = towers.told_text(), towers.image
        self.width, self.prefix = text.width if width is None else width, image.prefix
        if min(self.width, rounds) < 1:
            raise ValueError(f"width {self.width}, rounds {rounds} given, allowed is 1 or more of both")
        self.words, self.picture = nn.Linear(text.width, self.width), nn.Linear(image.width, self.width)
        self.query = nn.Parameter(torch.zeros(self.width).normal_(std=0.02))
        self.rounds = nn.ModuleList(_Round(self.width) for _ in range(rounds))

    def forward(self, image: Encoded | Held, text: EncodedText, causal: bool = False) -> Fused:
        self.refuse(causal)
        assert isinstance(image, Encoded)
        words_BTD, patches_BND = self.words(text.tokens_BTD), self.picture(image.patches_BND)
        real_BN = self.real(image.patches_BND)
        query_BD = self.query.to(words_BTD.dtype).expand(len(words_BTD), -1)
        for ask in self.rounds:
            query_BD = ask(query_BD, words_BTD, text.words.real_BT, patches_BND, real_BN)
        return Fused(query_BD)

    def flops(self, tokens: int, seen: int) -> int:
        patches = seen - self.prefix
        own = linear(self.words, tokens) + linear(self.picture, patches)
        for ask in self.rounds:
            assert isinstance(ask, _Round)
            own += ask.of_words.flops(tokens) + ask.of_patches.flops(patches) + blocks(ask.mlp, 1)
        return own


class _Round(nn.Module):
    """One look at both, and an MLP in which what was found meets."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.of_words, self.of_patches = AdditiveAttention(width), AdditiveAttention(width)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.last = nn.LayerNorm(width)

    def forward(self, query_BD: Tensor, words_BTD: Tensor, real_BT: Tensor, patches_BND: Tensor, real_BN: Tensor) -> Tensor:
        found_BD = self.of_words(query_BD, words_BTD, real_BT) + self.of_patches(query_BD, patches_BND, real_BN)
        query_BD = self.norm(query_BD + found_BD)
        asked_BD: Tensor = self.last(query_BD + self.mlp(query_BD))
        return asked_BD


class AdditiveAttention(nn.Module):
    """The mean of some tokens, weighed by the softmax of ``v . tanh(W token + U query)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token, self.asked, self.score = nn.Linear(width, width), nn.Linear(width, width, bias=False), nn.Linear(width, 1, bias=False)

    def forward(self, query_BD: Tensor, tokens_BTD: Tensor, real_BT: Tensor) -> Tensor:
        """``[B, D]``; tokens that are not real weigh nothing."""
        score_BT = self.score(torch.tanh(self.token(tokens_BTD) + self.asked(query_BD)[:, None]))[..., 0]
        weight_BT = score_BT.masked_fill(~real_BT, -torch.inf).softmax(-1).to(tokens_BTD.dtype)
        found_BD: Tensor = (weight_BT[:, None] @ tokens_BTD)[:, 0]
        return found_BD

    def flops(self, tokens: int) -> int:
        width = self.token.in_features
        return linear(self.token, tokens) + linear(self.asked, 1) + linear(self.score, tokens) + 2 * tokens * width
