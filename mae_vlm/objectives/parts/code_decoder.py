"""A small transformer that tells the codes of hidden patches from the visible ones and from words.

Letters: B pictures, N patches, T prefix tokens and patches, W tokens of a text and one that stands for no text, E width, H heads, K codes.
"""

from __future__ import annotations

from functools import partial

import torch
from timm.layers import Mlp
from timm.models.vision_transformer import Attention
from torch import Tensor, nn
from torch.nn import functional

from mae_vlm.encoders.arithmetic import blocks, linear
from mae_vlm.encoders.init import mae_init
from mae_vlm.encoders.text.base import EncodedText
from mae_vlm.encoders.towers import Towers
from mae_vlm.tokens.positions import sincos_2d
from mae_vlm.types import Encoded


class CodeDecoder(nn.Module):
    """The MAE paper's decoder with a look at words in every block, in front of a classifier of ``codes`` codes.

    Args:
        towers: for widths, grid and prefix tokens.
        codes: what it tells apart (K).
        width, depth, heads: of its blocks; heads default to 32 numbers each.

    Raises:
        ValueError: no text tower, or sizes that don't fit.
    """

    def __init__(self, towers: Towers, codes: int, width: int, depth: int, heads: int | None = None) -> None:
        super().__init__()
        heads = max(1, width // 32) if heads is None else heads
        if min(width, heads, depth) < 1 or width % heads:
            raise ValueError(
                f"decoder width {width}, depth {depth}, heads {heads} given: all must be positive and the width a multiple of the heads"
            )
        space, self.prefix = towers.image.space, towers.image.prefix
        self.decoder_embed = nn.Linear(towers.image.width, width)
        self.decoder_words = nn.Linear(towers.told_text().width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.silence = nn.Parameter(torch.zeros(1, 1, width))  # what is there to be looked at where there are no words
        table_1TE = sincos_2d(width, space.rows, space.columns, self.prefix)[None]
        self.decoder_pos_embed = nn.Parameter(table_1TE, requires_grad=False)
        self.decoder_blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.decoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.decoder_pred = nn.Linear(width, codes)
        mae_init(self)
        nn.init.normal_(self.silence, std=0.02)

    def forward(self, encoded: Encoded, hidden_BN: Tensor, text: EncodedText, told_B: Tensor) -> Tensor:
        """Logits of every patch's code ``[B, N, K]``, of the text where ``told_B`` says so; nothing of hidden patches is looked at."""
        embedded_BTE = self.decoder_embed(encoded.tokens_BTD)
        visible_BNE = embedded_BTE[:, self.prefix :]
        grid_BNE = torch.where(hidden_BN[..., None], self.mask_token.to(visible_BNE.dtype), visible_BNE)
        tokens_BTE = torch.cat([embedded_BTE[:, : self.prefix], grid_BNE], dim=1) + self.decoder_pos_embed
        words_BWE = self.decoder_words(text.tokens_BTD)
        words_BWE = torch.cat([self.silence.to(words_BWE.dtype).expand(len(words_BWE), -1, -1), words_BWE], dim=1)
        seen_BW = functional.pad(text.words.real_BT & told_B[:, None], (1, 0), value=True)
        for block in self.decoder_blocks:
            tokens_BTE = block(tokens_BTE, words_BWE, seen_BW)
        logits_BNK: Tensor = self.decoder_pred(self.decoder_norm(tokens_BTE)[:, self.prefix :])
        return logits_BNK

    def flops(self, words: int) -> int:
        """Operations of one picture with a text of so many ``words``, forward."""
        patches = self.decoder_pos_embed.shape[1] - self.prefix
        tokens, across = patches + self.prefix, 0
        for block in self.decoder_blocks:
            look: _Look = block.look  # type: ignore[assignment]
            across += linear(look.pair, words) - linear(look.pair, tokens) + 4 * tokens * words * look.pair.in_features
        own = linear(self.decoder_embed, tokens) + linear(self.decoder_words, words) + linear(self.decoder_pred, patches)
        return own + blocks(self.decoder_blocks, tokens) + across


class _Block(nn.Module):
    """Self-attention, a look at the words, and a perceptron, each behind a norm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.norm1, self.norm2, self.norm3 = norm(width), norm(width), norm(width)
        self.attn = Attention(width, heads, qkv_bias=True)
        self.look = _Look(width, heads)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, tokens_BTE: Tensor, words_BWE: Tensor, seen_BW: Tensor) -> Tensor:
        tokens_BTE = tokens_BTE + self.attn(self.norm1(tokens_BTE))
        tokens_BTE = tokens_BTE + self.look(self.norm2(tokens_BTE), words_BWE, seen_BW)
        added_BTE: Tensor = self.mlp(self.norm3(tokens_BTE))
        return tokens_BTE + added_BTE


class _Look(nn.Module):
    """Cross-attention of a picture's tokens to words."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.pair, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, tokens_BTE: Tensor, words_BWE: Tensor, seen_BW: Tensor) -> Tensor:
        query, key, value = (
            side.unflatten(-1, (self.heads, -1)).transpose(1, 2) for side in (self.query(tokens_BTE), *self.pair(words_BWE).chunk(2, -1))
        )
        found_BHTE = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen_BW[:, None, None, :])
        looked_BTE: Tensor = self.out(found_BHTE.transpose(1, 2).flatten(2))
        return looked_BTE
