"""What a trained encoder makes of pictures, laid out on the grid of patches of another one.

Letters: B pictures, C channels, H, W pixels, M patches of the teacher, N of the student, E the teacher's width.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from mae_vlm.encoders.image import ImageTower
from mae_vlm.types import TokenSpace


@torch.no_grad()
def teacher_tokens(
    teacher: ImageTower, images_BCHW: Tensor, space: TokenSpace, blocks: tuple[int, ...] | None = None
) -> tuple[Tensor, Tensor | None]:
    """Targets for each patch of ``space``, ``[B, N, E]``, and for the whole picture, ``[B, E]``, None without a class token.

    Tokens are those before the final norm, which a fine-tuning may never have trained, each brought to zero mean and unit deviation
    (Wei et al. 2022, arXiv 2205.14141, section 3: whitening by a LayerNorm without weights), in float32 or better. Of several ``blocks``
    (from 0) the mean of their normed tokens is taken (data2vec, arXiv 2202.03555, section 3.3). The class token's is after the final norm.

    Args:
        teacher: in evaluation mode; it normalises pictures with its own mean and deviation, and sees them in its own size.
        images_BCHW: pictures that are not normalised: uint8, uint16, or float from 0 to 1.
        space: the student's grid.
        blocks: of the teacher; None is the last one.

    Raises:
        ValueError: ``blocks`` of a teacher that is no plain ViT.
    """
    images_BCHW = teacher.normalise(images_BCHW)
    size = (teacher.space.height, teacher.space.width)
    if images_BCHW.shape[-2:] != size:
        images_BCHW = functional.interpolate(images_BCHW, size=size, mode="bicubic", antialias=True, align_corners=False)
    final_BTE, tapped = _seen(teacher, images_BCHW, blocks)
    with torch.autocast(images_BCHW.device.type, enabled=False):
        tokens_BME = torch.stack([normed(tokens_BME) for tokens_BME in tapped]).mean(0)
        patches_BNE = normed(on_grid(tokens_BME, teacher.space, space))
        class_BE = normed(final_BTE[:, : teacher.class_tokens].mean(1)) if teacher.class_tokens else None
    return patches_BNE, class_BE


def _seen(teacher: ImageTower, images_BCHW: Tensor, blocks: tuple[int, ...] | None) -> tuple[Tensor, list[Tensor]]:
    """All tokens after the final norm, and the patches' before it: after the last block, or after each of ``blocks``."""
    if blocks is None:
        encoded = teacher.full(images_BCHW)
        assert encoded.unnormed_BND is not None
        return encoded.tokens_BTD, [encoded.unnormed_BND]
    images_BCHW = images_BCHW.to(teacher.vit.patch_embed.proj.weight.dtype)
    final_BTE, tapped = teacher.vit.forward_intermediates(images_BCHW, indices=sorted(set(blocks)), norm=False, output_fmt="NLC")
    return final_BTE, tapped


def normed(tokens: Tensor) -> Tensor:
    """Zero mean and unit deviation over the last dimension, in float32 or better."""
    tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    return functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)


def on_grid(tokens_BME: Tensor, there: TokenSpace, here: TokenSpace) -> Tensor:
    """Tokens of one grid on another over the same picture, bilinear, with as many averaged as fall into a patch where it is coarser."""
    if (there.rows, there.columns) == (here.rows, here.columns):
        return tokens_BME
    maps_BEhw = rearrange(tokens_BME, "b (h w) e -> b e h w", h=there.rows)
    maps_BEhw = functional.interpolate(maps_BEhw, size=(here.rows, here.columns), mode="bilinear", antialias=True, align_corners=False)
    return rearrange(maps_BEhw, "b e h w -> b (h w) e")
