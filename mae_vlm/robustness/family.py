"""One way in which pictures are spoilt, at growing strengths.

Letters: B pictures, C channels, H, W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mae_vlm.tokens.chance import key_of, uniform

_HIGHEST = {torch.uint8: 255, torch.uint16: 65535}

Change = Callable[[Tensor, Tensor, float], Tensor]


@dataclass(frozen=True)
class Family:
    """A kind of damage: a pure function of pictures, keys and a strength.

    Attributes:
        name: in tables and files.
        group: families of a group share a panel of the plot.
        unit: what the numbers in ``strengths`` are.
        strengths: from the weakest to the strongest, usually five.
        change: float pictures ``[B, C, H, W]`` in [0, 1], int64 keys ``[B]`` and a strength to float pictures, which may leave [0, 1].
        moves: whether it carries pixels elsewhere, so that boxes and maps would no longer be true.
        coloured: whether it needs more than one channel.
    """

    name: str
    group: str
    unit: str
    strengths: tuple[float, ...]
    change: Change
    moves: bool = False
    coloured: bool = False

    def __call__(self, images_BCHW: Tensor, keys_B: Tensor, level: int) -> Tensor:
        """uint8 or uint16 pictures at a level counted from 1, of the same type.

        All levels of a picture share their chance: a stronger one is more of the same.
        """
        own_B = keys_B ^ key_of(*self.name.encode())
        return pixels(self.change(unit(images_BCHW), own_B, self.strengths[level - 1]), images_BCHW.dtype)

    @property
    def levels(self) -> range:
        return range(1, len(self.strengths) + 1)


def unit(images_BCHW: Tensor) -> Tensor:
    """Integer pictures as float32 in [0, 1]; float ones as they are."""
    highest = _HIGHEST.get(images_BCHW.dtype)
    return images_BCHW.float() if highest is None else images_BCHW.float() / highest


def pixels(images_BCHW: Tensor, dtype: torch.dtype) -> Tensor:
    """Float pictures, cut to [0, 1], as integers of ``dtype``; rounded to the nearest."""
    return (images_BCHW.clamp(0, 1) * _HIGHEST[dtype]).round().to(torch.int32).to(dtype)


def chance_like(images_BCHW: Tensor, keys_B: Tensor, stream: int = 0) -> Tensor:
    """A number in [0, 1) for every number of the pictures."""
    return uniform(keys_B, images_BCHW[0].numel(), stream).reshape(images_BCHW.shape)


def normal_like(images_BCHW: Tensor, keys_B: Tensor) -> Tensor:
    """Standard normal numbers, one for every number of the pictures (Box and Muller 1958)."""
    radius = (-2 * (1 - chance_like(images_BCHW, keys_B, 0)).log()).sqrt()
    return radius * (2 * math.pi * chance_like(images_BCHW, keys_B, 1)).cos()
