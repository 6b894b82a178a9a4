"""A ViT whose patches are embedded by a convolutional network."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import timm
import torch
from timm.layers import GroupNorm1, HybridEmbed
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem
from torch import Tensor, nn

from mae_vlm.encoders.arithmetic import blocks, products
from mae_vlm.encoders.image import ImageTower
from mae_vlm.encoders.vit import IMAGENET_MEAN, IMAGENET_STD, SIZED, Vit, checked_sizes, per_channel
from mae_vlm.types import Encoded, TokenSpace, sides


class StemmedVit(Vit):
    """A ViT behind a CNN: timm's hybrids by ``name``, or by sizes behind a few convolutions (Xiao et al. 2021, arXiv 2106.14881).

    Patches see beyond their borders, so that none can be hidden: it sees pictures whole. Whatever looks into a ViT's blocks takes it, too.

    Args:
        name: a timm model of the hybrid family, such as vit_small_r26_s32_224 (a ResNet-26 of stride 32); its sizes win.
        width, depth, heads, patch: sizes of the transformer when no ``name`` is given; the patch, a power of 2, is the stem's stride: one
            3 x 3 convolution of stride 2 for each doubling, with a norm over each picture, and a 1 x 1 one.
        image_size, channels, class_tokens, positions, drop_path, mean, std, checkpoint_blocks: see :class:`Vit`.

    Raises:
        ValueError: a name that is no hybrid, or sizes that don't fit.
    """

    masks = False

    def __init__(
        self,
        name: str | None = None,
        width: int = 384,
        depth: int = 11,
        heads: int = 6,
        patch: int = 16,
        image_size: int | tuple[int, int] | None = None,
        channels: int | None = None,
        class_tokens: int = 1,
        positions: str = "sincos",
        drop_path: float = 0.0,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        checkpoint_blocks: bool = False,
    ) -> None:
        nn.Module.__init__(self)  # other sizes than Vit's
        height, width_pixels = sides(224 if image_size is None else image_size)
        channels = 3 if channels is None else channels
        if positions not in ("sincos", "learned") or not 0 <= drop_path < 1 or class_tokens not in (0, 1):
            raise ValueError(
                f"positions {positions!r}, drop_path {drop_path}, class_tokens {class_tokens} given, allowed are sincos and learned, "
                "a share from 0 to below 1, and 0 or 1"
            )
        self.architecture = name or SIZED
        shared = {"img_size": (height, width_pixels), "in_chans": channels, "num_classes": 0, "global_pool": "avg", "fc_norm": False}
        shared |= {"drop_path_rate": drop_path, "class_token": class_tokens > 0}
        if name is None:
            TokenSpace(height, width_pixels, patch, channels)
            shared |= checked_sizes(width, depth, heads) | {"embed_layer": partial(_stem, patch=patch), "patch_size": 1}
        self.vit = _hybrid(self.architecture, shared)
        self.vit.set_grad_checkpointing(checkpoint_blocks)
        ratio = self.vit.patch_embed.feat_ratio(as_scalar=True)
        self.space = TokenSpace(height, width_pixels, int(ratio), channels)
        self.class_tokens = class_tokens
        self._fill_positions(positions)
        shape = (1, channels, height, width_pixels)
        with torch.no_grad():
            self._products, _ = products(self.vit.patch_embed, self.vit.patch_embed, shape)
        self.register_buffer("mean", per_channel(mean, channels, IMAGENET_MEAN, "mean"), persistent=False)
        self.register_buffer("std", per_channel(std, channels, IMAGENET_STD, "std"), persistent=False)

    def visible(self, patches_BNP: Tensor, keep_BK: Tensor) -> Encoded:
        return ImageTower.visible(self, patches_BNP, keep_BK)

    def flops(self, patches: int) -> int:
        return sum(self._products) + blocks(self.vit.blocks, patches + self.prefix)

    def first_flops(self, patches: int) -> int:
        return self._products[0]


def _stem(patch: int, in_chans: int, embed_dim: int, **options: Any) -> HybridEmbed:
    """Convolutions of stride 2, each of twice the channels of the one before, then timm's 1 x 1 projection."""
    depth = int(math.log2(patch)) if patch > 0 else 0
    if depth < 1 or 2**depth != patch:
        raise ValueError(f"patch {patch} given, a stem of stride 2 convolutions makes 2, 4, 8, 16 or 32 pixels one patch")
    least = max(8, embed_dim // 2**depth)
    layers = tuple(min(embed_dim, least * 2**number) for number in range(depth))
    stem = ConvStem(in_chans, depth, layers, 3, (2,) * depth, norm_layer=GroupNorm1)
    return HybridEmbed(stem, patch_size=1, in_chans=in_chans, embed_dim=embed_dim, **_known(options))


def _known(options: dict[str, Any]) -> dict[str, Any]:
    taken = ("img_size", "bias", "dynamic_img_pad", "strict_img_size")
    return {name: value for name, value in options.items() if name in taken}


def _hybrid(architecture: str, arguments: dict[str, Any]) -> Any:
    try:
        vit = timm.create_model(architecture, pretrained=False, **arguments)
    except (AssertionError, TypeError, RuntimeError) as problem:
        raise ValueError(f"timm cannot build {architecture} as a hybrid: {' '.join(str(problem).split())}") from problem
    embedding = getattr(vit, "patch_embed", None)
    if not isinstance(vit, VisionTransformer) or not isinstance(embedding, HybridEmbed) or not isinstance(embedding.proj, nn.Conv2d):
        raise ValueError(f"{architecture} is no ViT behind a CNN; choose one such as vit_small_r26_s32_224, or leave the name out")
    return vit
