"""What each block of an encoder knows of a picture.

Letters: B pictures, C channels, H, W pixels, D width, L blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mae_vlm.encoders.image import ImageTower
from mae_vlm.encoders.vit import Vit


def block_means(encoder: ImageTower, images_BCHW: Tensor) -> Tensor:
    """Mean of the patch tokens after every block, float32 ``[L, B, D]``, the last one after the final norm.

    ``images_BCHW`` are normalised pictures. Of an encoder that is no ViT these are the last features alone, ``[1, B, D]``. All blocks'
    tokens exist at one time: about B * patches * D * L numbers.
    """
    if not isinstance(encoder, Vit):
        return encoder.full(images_BCHW).patches_BND.float().mean(dim=1)[None]
    images_BCHW = images_BCHW.to(encoder.vit.patch_embed.proj.weight.dtype)
    final_BTD, blocks = encoder.vit.forward_intermediates(images_BCHW, norm=False, output_fmt="NLC")
    means = [tokens_BND.float().mean(dim=1) for tokens_BND in blocks[:-1]]
    return torch.stack([*means, final_BTD[:, encoder.prefix :].float().mean(dim=1)])
