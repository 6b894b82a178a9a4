"""What a dense detector says at every place of a pyramid's level.

Letters: B pictures, F width, L classes, M places, h, w places down and across.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_RARE = 0.01  # share of places with an object that training starts from: else the many empty ones drown the first steps


class DenseTower(nn.Module):
    """Two stacks of ``layers`` 3x3 convolutions with GroupNorm, the same for all levels: one for classes, one for boxes and their quality.

    Source: Tian et al. 2019 (FCOS, arXiv 1904.01355), figure 2, with the predicted IoU in place of centre-ness, beside the boxes.
    """

    def __init__(self, width: int, classes: int, layers: int) -> None:
        super().__init__()
        self.class_stack, self.box_stack = _stack(width, layers), _stack(width, layers)
        self.classes = nn.Conv2d(width, classes, 3, padding=1)
        self.boxes = nn.Conv2d(width, 4, 3, padding=1)
        self.quality = nn.Conv2d(width, 1, 3, padding=1)
        for convolution in (one for one in self.modules() if isinstance(one, nn.Conv2d)):
            nn.init.normal_(convolution.weight, std=0.01)
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
        assert self.classes.bias is not None
        nn.init.constant_(self.classes.bias, math.log(_RARE / (1 - _RARE)))

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Maps ``[B, F, h, w]`` of all levels to logits of classes ``[B, M, L]``, raw boxes ``[B, M, 4]``, logits of quality ``[B, M]``."""
        said = []
        for map_BFhw in maps:
            about_boxes = self.box_stack(map_BFhw)
            one = self.classes(self.class_stack(map_BFhw)), self.boxes(about_boxes), self.quality(about_boxes)
            said.append([answer.flatten(2).transpose(1, 2) for answer in one])
        classes_BML, boxes_BM4, quality_BM1 = (torch.cat(level, dim=1) for level in zip(*said, strict=True))
        return classes_BML, boxes_BM4, quality_BM1[..., 0]


def _stack(width: int, layers: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(math.gcd(32, width), width), nn.GELU()]
    return nn.Sequential(*parts)
