"""Any timm vision transformer as an encoder that can look at the visible patches only.

Letters: B pictures, C channels, H, W pixels, N patches, K visible patches, P numbers in a patch, T tokens, D width.
"""

from __future__ import annotations

import difflib
from typing import Any

import timm
import torch
from timm.layers import PatchEmbed
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from mae_vlm.encoders.arithmetic import blocks
from mae_vlm.encoders.image import ImageTower
from mae_vlm.encoders.init import mae_init
from mae_vlm.tokens.patchify import take
from mae_vlm.tokens.positions import sincos_2d
from mae_vlm.types import Encoded, TokenSpace, sides

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SIZED = "vit_base_patch16_224"  # the timm architecture under which an encoder given by sizes is exported


class Vit(ImageTower):
    """A timm ViT by ``name``, or by sizes (``width``, ``depth``, ``heads``, ``patch``), with timm's own parameter names.

    Args:
        name: a timm model of the VisionTransformer or the Eva (RoPE, DINOv3) family; its sizes win over the sizes below.
        width, depth, heads, patch, mlp_ratio: sizes of the transformer when no ``name`` is given; patch in pixels.
        image_size: pixels, one number or (height, width).
        channels: channels of a picture.
        class_tokens: class tokens; more than one are kept as timm's ``cls_token`` followed by register tokens.
        registers: further register tokens that stand for nothing.
        positions: ``sincos`` (fixed, as in the paper) or ``learned``.
        drop_path: while training, the share of pictures that skip the last block; it rises to that from 0 at the first (fine-tuning).
        checkpoint_blocks: keep only the input of each block for the backward pass and compute the rest again then: less memory for about a
            third more arithmetic, and the same numbers.
        mean, std: per channel, of pictures scaled to [0, 1]; None means ImageNet's for 3 channels, else 0.5.

    Raises:
        ValueError: unknown name, another family, or sizes that don't fit.
    """

    masks = True

    def __init__(
        self,
        name: str | None = None,
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        patch: int | None = None,
        mlp_ratio: float = 4.0,
        image_size: int | tuple[int, int] | None = None,
        channels: int | None = None,
        class_tokens: int = 1,
        registers: int = 0,
        positions: str = "sincos",
        drop_path: float = 0.0,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        checkpoint_blocks: bool = False,
    ) -> None:
        super().__init__()
        height, width_pixels = sides(224 if image_size is None else image_size)
        channels = 3 if channels is None else channels
        if positions not in ("sincos", "learned"):
            raise ValueError(f"positions {positions!r} given, allowed are sincos and learned")
        if class_tokens < 0 or registers < 0:
            raise ValueError(f"class_tokens {class_tokens} and registers {registers} must not be negative")
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path {drop_path} given, allowed is a share from 0 to below 1, as 0.1")
        extra = max(class_tokens - 1, 0) + registers
        shared: dict[str, Any] = {"img_size": (height, width_pixels), "in_chans": channels, "num_classes": 0, "global_pool": "avg"}
        shared |= {"drop_path_rate": drop_path} if drop_path else {}
        if name is None:
            sizes = checked_sizes(768 if width is None else width, 12 if depth is None else depth, 12 if heads is None else heads)
            patch = 16 if patch is None else patch
            TokenSpace(height, width_pixels, patch, channels)  # a wrong size is told before timm meets it
            self.architecture = SIZED
            self.model_args = shared | sizes | {
                "patch_size": patch, "mlp_ratio": mlp_ratio, "class_token": class_tokens > 0, "reg_tokens": extra, "fc_norm": False,
            }  # fmt: skip
        else:
            self.architecture = name
            self.model_args = shared | named_arguments(name, class_tokens, extra)
        self.vit = build_vit(self.architecture, self.model_args)
        self.vit.set_grad_checkpointing(checkpoint_blocks)
        self.space = TokenSpace(height, width_pixels, self.vit.patch_embed.patch_size[0], channels)
        self.class_tokens = 0 if self.vit.cls_token is None else class_tokens  # a named model may have registers alone
        self._fill_positions(positions)
        mae_init(self.vit)
        self.register_buffer("mean", per_channel(mean, channels, IMAGENET_MEAN, "mean"), persistent=False)
        self.register_buffer("std", per_channel(std, channels, IMAGENET_STD, "std"), persistent=False)

    @property
    def width(self) -> int:
        """Numbers per token (D)."""
        return int(self.vit.embed_dim)

    @property
    def prefix(self) -> int:
        """Class and register tokens in front of the patches."""
        return int(self.vit.num_prefix_tokens)

    @property
    def last_norm(self) -> nn.Module | None:
        norm: nn.Module = self.vit.norm
        return norm

    def full(self, images_BCHW: Tensor) -> Encoded:
        """All patches through the blocks: what timm's own ``forward_features`` makes of normalised pictures."""
        images_BCHW = images_BCHW.to(self.vit.patch_embed.proj.weight.dtype)  # differs only with whole weights in bf16
        tokens_BTD, (unnormed_BND,) = self.vit.forward_intermediates(images_BCHW, indices=1, output_fmt="NLC")
        return Encoded(tokens_BTD, self.prefix, unnormed_BND)

    def visible(self, patches_BNP: Tensor, keep_BK: Tensor) -> Encoded:
        """Only the patches ``keep_BK`` of the patchified, normalised pictures ``patches_BNP`` through embedding and blocks."""
        projection = self.vit.patch_embed.proj
        # the convolution of one patch is a linear layer; weight [D, C, p, q] to the patch's order (p, q, c)
        weight_DP = projection.weight.permute(0, 2, 3, 1).flatten(1)
        tokens_BKD = functional.linear(take(patches_BNP, keep_BK).to(weight_DP.dtype), weight_DP, projection.bias)
        tokens_BTD = self._with_prefix(self.vit.patch_embed.norm(tokens_BKD), keep_BK)
        tokens_BTD = self.vit.norm_pre(tokens_BTD)
        for block, rope in zip(self.vit.blocks, self._rotations(keep_BK), strict=True):
            named: dict[str, Any] = {} if rope is None else {"rope": rope}
            again = self.vit.grad_checkpointing and torch.is_grad_enabled()
            tokens_BTD = checkpoint(block, tokens_BTD, use_reentrant=False, **named) if again else block(tokens_BTD, **named)
        return Encoded(self.vit.norm(tokens_BTD), self.prefix)

    def flops(self, patches: int) -> int:
        return self.first_flops(patches) + blocks(self.vit.blocks, patches + self.prefix)

    def first_flops(self, patches: int) -> int:
        return 2 * patches * self.space.patch_pixels * self.width

    def _with_prefix(self, tokens_BKD: Tensor, keep_BK: Tensor) -> Tensor:
        vit = self.vit
        table = vit.pos_embed
        inside = 0 if vit.no_embed_class else self.prefix  # positions that the table holds for prefix tokens
        if table is not None:
            tokens_BKD = tokens_BKD + take(table[:, inside:].expand(len(keep_BK), -1, -1), keep_BK)
        front = [token for token in (vit.cls_token, vit.reg_token) if token is not None]
        if front:
            prefix_1ID = torch.cat(front, dim=1)
            if table is not None and inside:
                prefix_1ID = prefix_1ID + table[:, :inside]
            tokens_BKD = torch.cat([prefix_1ID.expand(len(keep_BK), -1, -1).to(tokens_BKD.dtype), tokens_BKD], dim=1)
        dropped: Tensor = vit.pos_drop(tokens_BKD)
        return dropped

    def _rotations(self, keep_BK: Tensor) -> list[Tensor | None]:
        """The rotary positions of the visible patches, one entry per block; None without RoPE."""
        depth = len(self.vit.blocks)
        rope = getattr(self.vit, "rope", None)
        if rope is None:
            return [None] * depth
        cached = getattr(rope, "feat_shape", None) is not None
        table = rope.get_embed() if cached else rope.get_embed(shape=self.vit.patch_embed.grid_size)
        if not getattr(self.vit, "rope_mixed", False):  # one table [N, R] for all blocks: to [B, 1 (heads), K, R]
            return [table[keep_BK][:, None]] * depth
        return [table[block][:, keep_BK].transpose(0, 1) for block in range(depth)]  # [heads, N, R] to [B, heads, K, R]

    def _fill_positions(self, positions: str) -> None:
        table = self.vit.pos_embed
        if table is None or positions == "learned":
            return
        prefix = 0 if self.vit.no_embed_class else self.prefix
        table.data.copy_(sincos_2d(self.width, self.space.rows, self.space.columns, prefix))
        table.requires_grad = False


def checked_sizes(width: int, depth: int, heads: int) -> dict[str, int]:
    """Sizes of a transformer as timm calls them; ValueError where they are not positive or the width is no multiple of the heads."""
    if min(width, depth, heads) < 1 or width % heads:
        raise ValueError(f"width {width}, depth {depth}, heads {heads} given: all must be positive and the width a multiple of the heads")
    return {"embed_dim": width, "depth": depth, "num_heads": heads}


def named_arguments(name: str, class_tokens: int, extra: int) -> dict[str, Any]:
    """Arguments that turn a registered timm model into one whose last norm runs on every token."""
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "see timm.list_models('vit_*')"
        raise ValueError(f"timm has no model named {name!r}; {hint}")
    entry = timm.model_entrypoint(name)
    family = entry.__module__.rsplit(".", 1)[-1]
    without = {"class_token": False} if class_tokens == 0 else {}
    if family == "eva":
        return {"use_fc_norm": False} | ({"num_reg_tokens": extra} if extra else {}) | without
    if family not in ("vision_transformer", "deit"):
        raise ValueError(
            f"timm model {name!r} is of the family {family}; supported are vision_transformer (vit_*, deit3_*) and eva (RoPE, DINOv3)"
        )
    return {"fc_norm": False} | ({"reg_tokens": extra} if extra else {}) | without


def build_vit(architecture: str, arguments: dict[str, Any]) -> Any:
    """Timm's model with random weights; ValueError where it is no plain ViT or timm cannot build it."""
    try:
        vit = timm.create_model(architecture, pretrained=False, **arguments)
    except (AssertionError, TypeError, RuntimeError) as problem:
        raise ValueError(f"timm cannot build {architecture} with {arguments}: {problem}") from problem
    embedding = getattr(vit, "patch_embed", None)
    plain = isinstance(embedding, PatchEmbed) and embedding.patch_size[0] == embedding.patch_size[1]
    if not isinstance(vit, VisionTransformer | Eva) or not plain or hasattr(vit, "dist_token"):
        raise ValueError(f"{architecture} is not a plain ViT with one square patch embedding; choose one such as vit_small_patch16_224")
    return vit


def per_channel(values: list[float] | None, channels: int, imagenet: tuple[float, ...], what: str) -> Tensor:
    """Means or deviations as ``[1, C, 1, 1]``: those given, ``imagenet`` for 3 channels, else 0.5; ValueError for another number."""
    if values is None:
        values = list(imagenet) if channels == 3 else [0.5] * channels
    if len(values) != channels:
        raise ValueError(f"{what} has {len(values)} values, the pictures have {channels} channels; give one per channel")
    return torch.tensor(values, dtype=torch.float32).view(1, channels, 1, 1)
