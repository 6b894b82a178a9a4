"""What makes class scores out of an encoder's maps: the contract, and the two smallest ones.

Letters: B pictures, D width, L classes, h, w cells down and across.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from timm.layers import LayerNorm2d
from torch import Tensor, nn

from mae_vlm.encoders.towers import Towers


class Decoder(nn.Module, ABC):
    """Class scores for every cell of a map.

    Attributes:
        taps: the encoder's blocks, from 0, whose maps it reads; they come without a norm.
    """

    taps: tuple[int, ...]

    @abstractmethod
    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps ``[B, D, rows, columns]`` of the taps to scores ``[B, L, rows * n, columns * n]``, with the same whole ``n`` always."""


class Linear(Decoder):
    """A norm and a linear layer for each patch of the last block.

    The decoder that Kerssies et al. 2024 (arXiv 2404.12172) compare encoders with, there too with full fine-tuning.

    Args:
        towers: the encoder.
        classes: how many.
        dropout: share of the channels that is dropped in training.
    """

    def __init__(self, towers: Towers, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.taps = (len(towers.image.vit.blocks) - 1,)
        self.norm = LayerNorm2d(towers.image.width)
        self.dropout = nn.Dropout2d(dropout)
        self.linear = scores_of(towers.image.width, classes)

    def forward(self, maps: list[Tensor]) -> Tensor:
        scores_BLhw: Tensor = self.linear(self.dropout(self.norm(maps[0])))
        return scores_BLhw


class Convolution(Decoder):
    """A norm, a 3x3 convolution and a linear layer on one block (the "FCN" beside UPerNet in training).

    Args:
        towers: the encoder.
        classes: how many.
        tap: the block, from 0; None for that at two thirds of the depth.
        width: channels of the convolution.
        dropout: share of the channels that is dropped in training.
    """

    def __init__(self, towers: Towers, classes: int, tap: int | None = None, width: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        depth = len(towers.image.vit.blocks)
        self.taps = (max(0, 2 * depth // 3 - 1) if tap is None else tap,)
        self.parts = nn.Sequential(LayerNorm2d(towers.image.width), *convolved(towers.image.width, width, 3), nn.Dropout2d(dropout))
        self.linear = scores_of(width, classes)

    def forward(self, maps: list[Tensor]) -> Tensor:
        scores_BLhw: Tensor = self.linear(self.parts(maps[0]))
        return scores_BLhw


def convolved(width_in: int, width_out: int, side: int) -> list[nn.Module]:
    """A convolution, a norm over the channels of each cell, and a ReLU."""
    return [nn.Conv2d(width_in, width_out, side, padding=side // 2, bias=False), LayerNorm2d(width_out), nn.ReLU()]


def scores_of(width: int, classes: int) -> nn.Conv2d:
    """The last layer, which knows nothing at first: all classes about alike."""
    layer = nn.Conv2d(width, classes, 1)
    nn.init.trunc_normal_(layer.weight, std=0.01)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
