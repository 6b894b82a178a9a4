"""One stream: words and patches side by side through the image encoder's own blocks.

Letters: B pairs, T tokens of a text, N tokens of a picture, S tokens of both, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mae_vlm.encoders.arithmetic import blocks
from mae_vlm.encoders.fusion.base import Fused, Fusion
from mae_vlm.encoders.passes import Held
from mae_vlm.encoders.text.base import EncodedText
from mae_vlm.encoders.text.transformer import causal_mask
from mae_vlm.encoders.towers import Towers
from mae_vlm.types import Encoded


class Early(Fusion):
    """The text's tokens and the picture's, each marked as such, through all blocks of the image encoder (ViLT, arXiv 2102.03334, 3.1).

    The text tower should do no more than place its words (``depth: 0``). Causal, a picture's tokens do not see the text: what they
    told on would be of later words. Own weights are the two marks alone, and a linear layer where the towers' widths differ.

    Args:
        towers: whose image encoder's blocks it runs.

    Raises:
        ValueError: no text tower, or an encoder with rotary positions, which words have none of.
    """

    def __init__(self, towers: Towers) -> None:
        super().__init__()
        text, image = towers.told_text(), towers.image
        if getattr(image.vit, "rope", None) is not None:
            raise ValueError(f"{image.architecture} has rotary positions, among which words have no place; take another encoder or fusion")
        self.width, self.blocks = image.width, len(image.vit.blocks)
        self.words = nn.Identity() if text.width == self.width else nn.Linear(text.width, self.width)
        self.marks = nn.Embedding(2, self.width)  # of text and picture
        nn.init.normal_(self.marks.weight, std=0.02)
        self.again = bool(image.vit.grad_checkpointing)
        once, twice = (blocks(image.vit.blocks, tokens) for tokens in (1, 2))
        self.each, self.every = 2 * once - twice // 2, twice // 2 - once  # operations of n tokens: each n + every n^2

    def forward(self, image: Encoded | Held, text: EncodedText, causal: bool = False) -> Fused:
        assert isinstance(image, Held)
        words_BTD = self.words(text.tokens_BTD) + self.marks.weight[0]
        stream_BSD = torch.cat([words_BTD, image.tokens_BTD + self.marks.weight[1]], dim=1)
        mask = seen_by(text.words.real_BT, self.real(image.tokens_BTD), causal)
        again = self.again and torch.is_grad_enabled()
        for block in image.blocks:
            stream_BSD = checkpoint(block, stream_BSD, attn_mask=mask, use_reentrant=False) if again else block(stream_BSD, attn_mask=mask)
        stream_BSD = image.norm(stream_BSD)
        across = words_BTD.shape[1]
        return Fused(stream_BSD[:, 0], stream_BSD[:, :across], self.patches(stream_BSD, across + image.prefix))

    def flops(self, tokens: int, seen: int) -> int:
        both = tokens + seen
        own = 2 * tokens * self.words.in_features * self.width if isinstance(self.words, nn.Linear) else 0
        return own + self.each * both + self.every * both**2


def seen_by(real_BT: Tensor, real_BN: Tensor, causal: bool) -> Tensor:
    """Bool ``[B, 1, 1 or S, S]``: which tokens (columns) of a text and then a picture may be seen, causal by which (rows)."""
    if not causal:
        return torch.cat([real_BT, real_BN], dim=1)[:, None, None]
    before_BTT = causal_mask(real_BT)[:, 0]
    across, patches = real_BT.shape[1], real_BN.shape[1]
    texts_BTS = torch.cat([before_BTT, real_BN[:, None].expand(-1, across, -1)], dim=2)
    pictures_BNS = torch.cat([torch.zeros_like(real_BT), real_BN], dim=1)[:, None].expand(-1, patches, -1)
    return torch.cat([texts_BTS, pictures_BNS], dim=1)[:, None]
