"""The MAE paper's decoder: mask tokens take the hidden places, a small transformer fills in the pixels.

Letters: B pictures, N patches, K visible, M hidden, T prefix tokens and patches, D encoder width, E decoder width, P pixels.
"""

from __future__ import annotations

from functools import partial

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from mae_vlm.encoders.init import mae_init
from mae_vlm.encoders.towers import Towers
from mae_vlm.tokens.positions import sincos_2d
from mae_vlm.types import Encoded, Masking


class PixelDecoder(nn.Module):
    """Predicts every patch's pixels from the encoded visible ones (He et al. 2021, section 3 and appendix A.1).

    Args:
        towers: for the encoder's width, grid and prefix tokens.
        width, depth, heads: of the decoder; heads default to 32 numbers each, as in the paper's 512 / 16.

    Raises:
        ValueError: sizes that are not positive, or a width that the heads do not divide.
    """

    def __init__(self, towers: Towers, width: int = 512, depth: int = 8, heads: int | None = None) -> None:
        super().__init__()
        heads = max(1, width // 32) if heads is None else heads
        if min(width, heads) < 1 or depth < 0 or width % heads:
            raise ValueError(
                f"decoder width {width}, depth {depth}, heads {heads} given: all must be positive and the width a multiple of the heads"
            )
        space, self.prefix = towers.image.space, towers.image.prefix
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.decoder_embed = nn.Linear(towers.image.width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        table_1TE = sincos_2d(width, space.rows, space.columns, self.prefix)[None]
        self.decoder_pos_embed = nn.Parameter(table_1TE, requires_grad=False)
        self.decoder_blocks = nn.Sequential(*(Block(width, heads, 4.0, qkv_bias=True, norm_layer=norm) for _ in range(depth)))
        self.decoder_norm = norm(width)
        self.decoder_pred = nn.Linear(width, space.patch_pixels)
        mae_init(self)

    def forward(self, encoded: Encoded, masking: Masking) -> Tensor:
        """Predicted pixels of every patch in patch order: ``[B, N, P]``, hidden and visible alike."""
        predicted_BNP: Tensor = self.decoder_pred(self._decode(encoded, masking)[:, self.prefix :])
        return predicted_BNP

    def hidden(self, encoded: Encoded, masking: Masking) -> Tensor:
        """Predicted pixels of the hidden patches alone, in the order of ``hide_BM``: ``[B, M, P]``."""
        tokens_BTE = self._decode(encoded, masking)
        place_BM1 = (masking.hide_BM + self.prefix)[..., None]
        predicted_BMP: Tensor = self.decoder_pred(tokens_BTE.gather(1, place_BM1.expand(-1, -1, tokens_BTE.shape[-1])))
        return predicted_BMP

    def _decode(self, encoded: Encoded, masking: Masking) -> Tensor:
        embedded_BTE = self.decoder_embed(encoded.tokens_BTD)
        visible_BKE = embedded_BTE[:, self.prefix :]
        batch, patches, width = len(visible_BKE), masking.keep_BK.shape[1] + masking.hide_BM.shape[1], visible_BKE.shape[-1]
        grid_BNE = self.mask_token.to(visible_BKE.dtype).expand(batch, patches, width)
        grid_BNE = grid_BNE.scatter(1, masking.keep_BK[..., None].expand(-1, -1, width), visible_BKE)
        tokens_BTE = torch.cat([embedded_BTE[:, : self.prefix], grid_BNE], dim=1) + self.decoder_pos_embed
        decoded_BTE: Tensor = self.decoder_norm(self.decoder_blocks(tokens_BTE))
        return decoded_BTE
