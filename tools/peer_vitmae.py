"""``transformers``' ViTMAEForPreTraining at our sizes, made to learn, and its encoder carried over to ours for the probes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from mae_vlm.encoders.vit import Vit
from mae_vlm.tokens.masking import Mask
from mae_vlm.tokens.positions import sincos_2d
from mae_vlm.types import Batch

_LEAVES = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}  # timm's name inside a block to transformers'


class PeerMae(nn.Module):
    """Loss of a batch, with the same masks as ours by the same keys.

    As shipped it has zero positions and tokens, and learns nothing: the tables get the paper's sine and cosine, the tokens
    normal(0, .02), the norms epsilon 1e-6. Linear layers keep its own start, normal(0, .02).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, like: Vit, mask: Mask, decoder_depth: int, decoder_width: int) -> None:
        super().__init__()
        self.mask, self.space = mask, like.space
        self.register_buffer("mean", like.mean.clone(), persistent=False)
        self.register_buffer("std", like.std.clone(), persistent=False)
        self.model = ViTMAEForPreTraining(_config(like, mask, decoder_depth, decoder_width))
        _fill(self.model, like)

    def forward(self, batch: Batch) -> Tensor:
        pixels_BCHW = (batch.images_BCHW.float() / 255.0 - self.mean) / self.std
        loss: Tensor = self.model(pixel_values=pixels_BCHW, noise=self.mask.scores(batch.keys_B, self.space)).loss
        return loss

    def encoder_state(self) -> dict[str, Tensor]:
        """The encoder's weights under the names of our ``Vit``."""
        return encoder_state(self.model)


def _config(like: Vit, mask: Mask, decoder_depth: int, decoder_width: int) -> ViTMAEConfig:
    return ViTMAEConfig(
        hidden_size=like.width,
        num_hidden_layers=len(like.vit.blocks),
        num_attention_heads=like.vit.blocks[0].attn.num_heads,
        intermediate_size=4 * like.width,
        layer_norm_eps=1e-6,
        image_size=like.space.height,
        patch_size=like.space.patch,
        decoder_num_hidden_layers=decoder_depth,
        decoder_hidden_size=decoder_width,
        decoder_num_attention_heads=max(1, decoder_width // 32),
        decoder_intermediate_size=4 * decoder_width,
        mask_ratio=mask.ratio,
        norm_pix_loss=True,
    )


@torch.no_grad()
def _fill(model: ViTMAEForPreTraining, like: Vit) -> None:
    grid = like.space.rows, like.space.columns
    for table in (model.vit.embeddings.position_embeddings, model.decoder.decoder_pos_embed):
        table.copy_(sincos_2d(table.shape[-1], *grid, prefix=1)[None])
        table.requires_grad = False
    nn.init.normal_(model.vit.embeddings.cls_token, std=0.02)
    nn.init.normal_(model.decoder.mask_token, std=0.02)


def encoder_state(model: ViTMAEForPreTraining) -> dict[str, Tensor]:
    """State of ``Vit`` with one class token from ViTMAE's encoder: query, key and value become one matrix."""
    theirs = {name: value.detach().clone() for name, value in model.vit.state_dict().items()}
    ours = {"vit.cls_token": theirs["embeddings.cls_token"], "vit.pos_embed": theirs["embeddings.position_embeddings"]}
    for kind in ("weight", "bias"):
        ours[f"vit.patch_embed.proj.{kind}"] = theirs[f"embeddings.patch_embeddings.projection.{kind}"]
        ours[f"vit.norm.{kind}"] = theirs[f"layernorm.{kind}"]
        for block in range(len(model.vit.layers)):
            for leaf, name in _LEAVES.items():
                ours[f"vit.blocks.{block}.{leaf}.{kind}"] = theirs[f"layers.{block}.{name}.{kind}"]
            parts = [theirs[f"layers.{block}.attention.{part}_proj.{kind}"] for part in "qkv"]
            ours[f"vit.blocks.{block}.attn.qkv.{kind}"] = torch.cat(parts)
    return ours
