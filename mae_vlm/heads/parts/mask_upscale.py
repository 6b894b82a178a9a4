"""From patches to a finer map, on which queries draw their masks.

Letters: B pictures, D width, h, w patches down and across.
"""

from __future__ import annotations

from torch import Tensor, nn


def upscalings(patch: int) -> int:
    """How often to double a map of patches so that a cell is about 4 pixels wide; once at least, as EoMT does."""
    return max(1, patch.bit_length() - 3)


class MaskUpscale(nn.Sequential):
    """``count`` times: a transposed 2 x 2 convolution of stride 2, GELU, a depthwise 3 x 3 one, a norm over channels.

    ``[B, D, h, w]`` to ``[B, D, h * 2^count, w * 2^count]``. Source: EoMT (Kerssies et al. 2025, arXiv 2503.19108, section 3.2).
    """

    def __init__(self, width: int, count: int) -> None:
        super().__init__(*(_doubling(width) for _ in range(count)))


class ChannelNorm(nn.LayerNorm):
    """A layer norm over the channels of ``[B, D, h, w]``."""

    def forward(self, map_BDhw: Tensor) -> Tensor:
        normed = super().forward(map_BDhw.movedim(1, -1))
        return normed.movedim(-1, 1)


def _doubling(width: int) -> nn.Sequential:
    spread = nn.Conv2d(width, width, kernel_size=3, padding=1, groups=width, bias=False)
    return nn.Sequential(nn.ConvTranspose2d(width, width, kernel_size=2, stride=2), nn.GELU(), spread, ChannelNorm(width, eps=1e-6))
