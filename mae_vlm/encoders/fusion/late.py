"""A feature of the picture and one of the text, joined at the end.

Letters: B pairs, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mae_vlm.encoders.arithmetic import blocks
from mae_vlm.encoders.fusion.base import Fused, Fusion
from mae_vlm.encoders.passes import Held
from mae_vlm.encoders.text.base import POOLS, EncodedText
from mae_vlm.encoders.towers import Towers
from mae_vlm.types import Encoded


class Late(Fusion):
    """Both towers' pooled features, normed and concatenated, through a gated MLP (GEGLU: Shazeer 2020, arXiv 2002.05202, equation 6).

    The lightest: towers never see each other's tokens, of which it keeps none.

    Args:
        towers: the two.
        width: of the feature; None takes the text tower's.
        pool: a text's feature: of its ``first`` token, its ``end`` token or their ``mean``; a picture's is the mean of its patches.
        ratio: width within the MLP over that of its input.

    Raises:
        ValueError: no text tower, another pool, or sizes below 1.
    """

    tokens = False
    causal = False

    def __init__(self, towers: Towers, width: int | None = None, pool: str = "mean", ratio: float = 2.0) -> None:
        super().__init__()
        text, image = towers.told_text(), towers.image
        self.width, self.pool = text.width if width is None else width, pool
        given = text.width + image.width
        hidden = int(ratio * given)
        if min(self.width, hidden) < 1 or pool not in POOLS:
            raise ValueError(f"width {width}, ratio {ratio}, pool {pool!r} given: sizes must be 1 or more, and pool {', '.join(POOLS)}")
        self.norms = nn.ModuleList([nn.LayerNorm(image.width), nn.LayerNorm(text.width)])
        self.gate, self.value, self.out = nn.Linear(given, hidden), nn.Linear(given, hidden), nn.Linear(hidden, self.width)

    def forward(self, image: Encoded | Held, text: EncodedText, causal: bool = False) -> Fused:
        self.refuse(causal)
        assert isinstance(image, Encoded)
        pooled = (self._picture(image.patches_BND), text.pooled(self.pool))
        both_BD = torch.cat([norm(one) for norm, one in zip(self.norms, pooled, strict=True)], dim=-1)
        fused_BD: Tensor = self.out(functional.gelu(self.gate(both_BD)) * self.value(both_BD))
        return Fused(fused_BD)

    def _picture(self, seen_BND: Tensor) -> Tensor:
        """The mean of a picture's patches and its regions."""
        if not self.regions:
            return seen_BND.mean(1)
        real_BN = self.real(seen_BND)
        share_BN1 = (real_BN / real_BN.sum(1, keepdim=True))[..., None].to(seen_BND.dtype)
        return (seen_BND * share_BN1).sum(1)

    def flops(self, tokens: int, seen: int) -> int:
        return blocks(self, 1)
