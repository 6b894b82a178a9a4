"""Parts of a picture hidden, or put elsewhere.

Letters: B pictures, C channels, H, W pixels, N patches or tiles, p, q patches down and across.
"""

from __future__ import annotations

from functools import partial

from einops import rearrange
from torch import Tensor

from mae_vlm.robustness.family import Family
from mae_vlm.tokens.chance import uniform

_GREY = 0.5  # about zero once pictures are normalised


def occluded(images_BCHW: Tensor, keys_B: Tensor, share: float, patch: int) -> Tensor:
    """So large a share of the patches, rounded to whole ones, is grey; a larger share hides the same ones and more.

    The encoder's own patches, as in Naseer et al. 2021 (arXiv 2105.10497, section 3.1). ``patch`` divides height and width.
    """
    rows, columns = images_BCHW.shape[-2] // patch, images_BCHW.shape[-1] // patch
    rank_BN = uniform(keys_B, rows * columns).argsort(dim=1).argsort(dim=1)
    hidden_BN = rank_BN < round(share * rows * columns)
    hidden_BHW = hidden_BN.view(-1, rows, columns).repeat_interleave(patch, 1).repeat_interleave(patch, 2)
    return images_BCHW.masked_fill(hidden_BHW[:, None], _GREY)


def shuffled(images_BCHW: Tensor, keys_B: Tensor, grid: float) -> Tensor:
    """The tiles of a ``grid`` x ``grid`` in another order (the same source, section 3.3); a rim that no tile fits into stays."""
    side = int(grid)
    height, width = (pixels // side for pixels in images_BCHW.shape[-2:])
    inner = images_BCHW[..., : side * height, : side * width]
    tiles_BNX = rearrange(inner, "b c (p h) (q w) -> b (p q) (c h w)", p=side, q=side)
    order_BN = uniform(keys_B, side * side, stream=side).argsort(dim=1)
    mixed_BNX = tiles_BNX.gather(1, order_BN[..., None].expand_as(tiles_BNX))
    result = images_BCHW.clone()
    result[..., : side * height, : side * width] = rearrange(mixed_BNX, "b (p q) (c h w) -> b c (p h) (q w)", p=side, h=height, w=width)
    return result


def hiding(patch: int, height: int, width: int) -> list[Family]:
    """Occlusion and shuffling for an encoder of this patch and pictures of this size; no tile is smaller than a pixel."""
    grids = tuple(float(grid) for grid in (2, 4, 8) if grid <= min(height, width))
    return [
        Family("occlusion", "hidden parts", "share of patches that are grey", (0.1, 0.25, 0.4, 0.55, 0.7), partial(occluded, patch=patch)),
        Family("patch_shuffle", "hidden parts", "tiles down and across", grids, shuffled, moves=True),
    ]
