"""One map for queries to look at, out of several blocks' maps.

Letters: B pictures, D width of the encoder, F width of the map, h, w cells down and across.
"""

from __future__ import annotations

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn


class Projector(nn.Module):
    """Several blocks' maps as one of ``width_out`` channels at the same resolution, after a norm over the channels of each cell.

    LW-DETR's projector (Chen et al. 2024, arXiv 2406.03459, section 3.1), with norms over channels, as RF-DETR has them: they do not mix
    the pictures of a batch. Each tapped map has a norm of its own, as the encoder's maps come without one.

    Args:
        taps: how many maps.
        width_in: channels D of each.
        width_out: channels F, even.
        blocks: pairs of 3 x 3 convolutions.
    """

    def __init__(self, taps: int, width_in: int, width_out: int, blocks: int = 3) -> None:
        super().__init__()
        self.norms = nn.ModuleList(LayerNorm2d(width_in) for _ in range(taps))
        self.merge = C2f(taps * width_in, width_out, blocks)
        self.norm = LayerNorm2d(width_out)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps ``[B, D, h, w]`` to one ``[B, F, h, w]``."""
        normed = [norm(one) for norm, one in zip(self.norms, maps, strict=True)]
        merged_BFhw: Tensor = self.norm(self.merge(torch.cat(normed, dim=1)))
        return merged_BFhw


class C2f(nn.Module):
    """Half of the channels goes through pairs of 3 x 3 convolutions, one after another; what each leaves is merged with all the rest.

    The block of YOLOv8, without its shortcuts, as in LW-DETR.
    """

    def __init__(self, width_in: int, width_out: int, blocks: int) -> None:
        super().__init__()
        half = width_out // 2
        self.narrow = _convolved(width_in, 2 * half, 1)
        self.pairs = nn.ModuleList(nn.Sequential(_convolved(half, half, 3), _convolved(half, half, 3)) for _ in range(blocks))
        self.merge = _convolved((2 + blocks) * half, width_out, 1)

    def forward(self, map_BDhw: Tensor) -> Tensor:
        parts = list(self.narrow(map_BDhw).chunk(2, dim=1))
        for pair in self.pairs:
            parts.append(pair(parts[-1]))
        merged_BFhw: Tensor = self.merge(torch.cat(parts, dim=1))
        return merged_BFhw


def _convolved(width_in: int, width_out: int, side: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width_in, width_out, side, padding=side // 2, bias=False), LayerNorm2d(width_out), nn.SiLU())
