"""Pictures to patches and back.

Letters: B pictures, C channels, H, W pixels, N patches, P numbers in a patch (row, column, channel: channel fastest).
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor

from mae_vlm.types import TokenSpace


def patchify(images_BCHW: Tensor, space: TokenSpace) -> Tensor:
    """Cut pictures into patches, ``[B, C, H, W]`` to ``[B, N, P]``, in the order of the MAE paper's code (channel fastest).

    Raises:
        ValueError: the pictures are not of the size that ``space`` describes.
    """
    _, channels, height, width = images_BCHW.shape
    if (channels, height, width) != (space.channels, space.height, space.width):
        raise ValueError(
            f"pictures of {channels}x{height}x{width} (channels x height x width) given, "
            f"the encoder was built for {space.channels}x{space.height}x{space.width}; set data.image_size or resize them"
        )
    p = space.patch
    return rearrange(images_BCHW, "b c (r p) (k q) -> b (r k) (p q c)", p=p, q=p)


def unpatchify(patches_BNP: Tensor, space: TokenSpace) -> Tensor:
    """Put patches back together, ``[B, N, P]`` to ``[B, C, H, W]``; undoes :func:`patchify` exactly."""
    p = space.patch
    return rearrange(patches_BNP, "b (r k) (p q c) -> b c (r p) (k q)", r=space.rows, p=p, q=p)


def take(tokens_BND: Tensor, index_BK: Tensor) -> Tensor:
    """Pick tokens by index, ``[B, N, D]`` and ``[B, K]`` to ``[B, K, D]``, with static shapes."""
    return tokens_BND.gather(1, index_BK[..., None].expand(-1, -1, tokens_BND.shape[-1]))
