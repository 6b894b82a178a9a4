"""Maps of several resolutions out of a plain vision transformer, whose own maps all have one.

Letters: B pictures, D width, F width of the pyramid, h, w cells down and across.
"""

from __future__ import annotations

import math

from timm.layers import LayerNorm2d
from torch import Tensor, nn

SCALES = (4.0, 2.0, 1.0, 0.5)


class SimplePyramid(nn.Module):
    """A map for each of ``scales``, of ``width_out`` channels: ViTDet's simple pyramid (Li et al. 2022, arXiv 2203.16527, section 3).

    Larger maps come from transposed convolutions, smaller ones from max-pooling (an odd side is rounded up); then follow a 1x1 and a
    3x3 convolution. All norms are over the channels of a cell (LayerNorm), none over the batch. Unlike there, each level begins with a
    norm of its own, as the encoder's maps come without one.

    Args:
        width_in: channels D of the encoder's maps.
        width_out: channels F of the pyramid's.
        scales: factors of the encoder's resolution, powers of two.

    Raises:
        ValueError: no scale, one that is no power of two, or a width too small for it.
    """

    def __init__(self, width_in: int, width_out: int, scales: tuple[float, ...] = SCALES) -> None:
        super().__init__()
        if not scales or any(scale <= 0 or not math.log2(scale).is_integer() for scale in scales):
            raise ValueError(f"scales {tuple(scales)} given, allowed are powers of two, as in 4, 2, 1, 0.5")
        if width_in < max(scales) or width_out < 1:
            raise ValueError(f"widths {width_in} in and {width_out} out given: the first must be at least the largest scale, the second 1")
        self.scales, self.width = tuple(scales), width_out
        self.levels = nn.ModuleList(_level(width_in, width_out, round(math.log2(scale))) for scale in scales)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """One map ``[B, D, h, w]`` for each scale, or one for all of them, to maps ``[B, F, h * scale, w * scale]``."""
        if len(maps) not in (1, len(self.levels)):
            raise ValueError(f"{len(maps)} maps given for {len(self.levels)} scales; give one for each scale, or one for all")
        own = maps * len(self.levels) if len(maps) == 1 else maps
        return [level(map_BDhw) for level, map_BDhw in zip(self.levels, own, strict=True)]


def _level(width_in: int, width_out: int, doublings: int) -> nn.Sequential:
    """One level: ``doublings`` is the log2 of its scale, negative for a smaller map."""
    parts: list[nn.Module] = [LayerNorm2d(width_in)]
    width = width_in
    for step in range(doublings):
        if step:
            parts += [LayerNorm2d(width), nn.GELU()]
        parts.append(nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2))
        width //= 2
    parts += [nn.MaxPool2d(2, ceil_mode=True) for _ in range(-doublings)]
    parts += [nn.Conv2d(width, width_out, 1, bias=False), LayerNorm2d(width_out)]
    parts += [nn.Conv2d(width_out, width_out, 3, padding=1, bias=False), LayerNorm2d(width_out)]
    return nn.Sequential(*parts)
