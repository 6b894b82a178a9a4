"""The contract of a fusion tower: what looks at a picture and a text together.

Letters: B pairs, T tokens of a text, N patches, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mae_vlm.encoders.arithmetic import blocks
from mae_vlm.encoders.passes import Held
from mae_vlm.encoders.text.base import EncodedText
from mae_vlm.types import Encoded


@dataclass(frozen=True)
class Fused:
    """Pairs of a picture and a text, seen together.

    Attributes:
        pooled_BD: one feature for each pair, for matching, questions and the like.
        tokens_BTD: the text's tokens in the light of the picture, in their places; None of a fusion that keeps no tokens.
        patches_BND: the picture's patches, in the light of the text where the fusion lets them see it; None likewise.
    """

    pooled_BD: Tensor
    tokens_BTD: Tensor | None = None
    patches_BND: Tensor | None = None


class Fusion(nn.Module, ABC):
    """Pictures and texts to one feature of both. Built with the towers' sizes; keeps no reference to them.

    Attributes:
        width: numbers per token of what it returns (D).
        blocks: how many of the image encoder's last blocks it runs itself, on tokens of both: 0 for most, which take its features.
        tokens: whether it returns the text's tokens, which masked language and captions need.
        causal: whether a token can be kept from seeing those after it, which captions need.
        regions: tokens of the picture behind its patches, see :class:`mae_vlm.encoders.regions.Regions`; the towers set it.
    """

    width: int
    blocks: int = 0
    tokens: bool = True
    causal: bool = True
    regions: int = 0

    @property
    def views(self) -> tuple[str, ...]:
        """The passes of ``Features`` that a part trains through which looks at pairs: its own blocks are no pass of the encoder's."""
        return ("text", "fused") if self.blocks else ("full", "text", "fused")

    @abstractmethod
    def forward(self, image: Encoded | Held, text: EncodedText, causal: bool = False) -> Fused:
        """Row i of the text with row i of the picture; padding of the text changes nothing, ``text.words`` tells where it is.

        ``image`` are the encoder's features of all patches, or the tokens before its last ``blocks``; behind them those of ``regions``.

        Raises:
            ValueError: ``causal`` of a fusion that cannot.
        """

    def real(self, tokens_BND: Tensor) -> Tensor:
        """Bool ``[B, N]``: which tokens at the end of a picture's are to be looked at: regions that are not there are all zeros."""
        real_BN = tokens_BND.new_ones(tokens_BND.shape[:2], dtype=torch.bool)
        if self.regions:
            real_BN[:, -self.regions :] = tokens_BND[:, -self.regions :].ne(0).any(-1)
        return real_BN

    def patches(self, seen_BND: Tensor, prefix: int) -> Tensor:
        """Of a picture's tokens, as the tower sees them, those of its patches."""
        return seen_BND[:, prefix : seen_BND.shape[1] - self.regions]

    def refuse(self, causal: bool) -> None:
        """For a fusion that cannot be causal.

        Raises:
            ValueError: it is asked to be.
        """
        if causal:
            raise ValueError(
                f"{type(self).__name__} cannot keep a word from seeing those after it, which captions need; "
                "set model.fusion to mae_vlm.encoders.fusion.cross.CrossAttention or .early.Early"
            )

    def flops(self, tokens: int, seen: int) -> int:
        """Operations of one pair forward, of ``tokens`` of a text and ``seen`` of a picture: as if all were in one stream."""
        return blocks(self, tokens + seen)
