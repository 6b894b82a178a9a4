"""UPerNet on a plain vision transformer, without a norm over the batch.

Letters: B pictures, D width, F channels, L classes, h, w cells down and across.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mae_vlm.encoders.towers import Towers
from mae_vlm.heads.parts.decoder import Decoder, convolved, scores_of
from mae_vlm.heads.parts.pyramid import SCALES, SimplePyramid

_POOLED = (1, 2, 3, 6)  # cells a side (Zhao et al. 2017, "Pyramid scene parsing network", section 3.2)


class UperNet(Decoder):
    """A pyramid of four blocks' maps, context pooled over the picture, and all levels merged at four times the patches' resolution.

    Xiao et al. 2018 (arXiv 1807.10221), as MAE's authors put it on a ViT (He et al. 2021, appendix A.4), but for the norms, which go over
    the channels of a cell instead of the batch and the processes, and the pyramid, which narrows to ``channels`` by itself.

    Args:
        towers: the encoder.
        classes: how many.
        channels: of every map in it; 512 there.
        taps: four blocks, from 0; None for those at a third, half, two thirds and the whole of the depth (3, 5, 7, 11 of 12).
        dropout: share of the merged channels that is dropped in training.

    Raises:
        ValueError: not four taps.
    """

    def __init__(
        self, towers: Towers, classes: int, channels: int = 256, taps: tuple[int, int, int, int] | None = None, dropout: float = 0.1
    ) -> None:
        super().__init__()
        depth = len(towers.image.vit.blocks)
        self.taps = tuple(max(0, part - 1) for part in (depth // 3, depth // 2, 2 * depth // 3, depth)) if taps is None else tuple(taps)
        if len(self.taps) != len(SCALES):
            raise ValueError(f"taps {self.taps} given, UPerNet reads {len(SCALES)} blocks, as in [3, 5, 7, 11]")
        self.pyramid = SimplePyramid(towers.image.width, channels)
        self.pooled = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(side), *convolved(channels, channels, 1)) for side in _POOLED)
        self.context = nn.Sequential(*convolved((1 + len(_POOLED)) * channels, channels, 3))
        self.smooth = nn.ModuleList(nn.Sequential(*convolved(channels, channels, 3)) for _ in SCALES[:-1])
        self.merge = nn.Sequential(*convolved(len(SCALES) * channels, channels, 3), nn.Dropout2d(dropout))
        self.linear = scores_of(channels, classes)

    def forward(self, maps: list[Tensor]) -> Tensor:
        levels = self.pyramid(maps)
        top = levels[-1]
        levels[-1] = self.context(torch.cat([top, *(_as_large(pool(top), top) for pool in self.pooled)], dim=1))
        for number in range(len(levels) - 2, -1, -1):  # what a coarser level knows comes down to the finer one
            levels[number] = levels[number] + _as_large(levels[number + 1], levels[number])
        smooth = [*(part(level) for part, level in zip(self.smooth, levels, strict=False)), levels[-1]]
        merged_BFhw = self.merge(torch.cat([_as_large(level, levels[0]) for level in smooth], dim=1))
        scores_BLhw: Tensor = self.linear(merged_BFhw)
        return scores_BLhw


def _as_large(small: Tensor, large: Tensor) -> Tensor:
    return functional.interpolate(small, size=large.shape[-2:], mode="bilinear", align_corners=False)
