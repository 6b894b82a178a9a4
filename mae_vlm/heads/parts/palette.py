"""Fixed colours for class numbers, the same in every run.

Letters: H, W pixels, L classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

_UNKNOWN = (255, 255, 255)


def palette(classes: int) -> Tensor:
    """uint8 ``[L + 1, 3]``: a colour for each class, no two alike, and last, where -1 finds it, white for the unknown.

    Source: the colour map of PASCAL VOC: the class number's bits, from the lowest, go to red, green and blue in turn, from the highest bit.
    """
    number_L = torch.arange(classes)
    colours_L3 = torch.zeros(classes, 3, dtype=torch.int64)
    for digit in range(8):
        for channel in range(3):
            colours_L3[:, channel] |= (number_L >> (3 * digit + channel) & 1) << (7 - digit)
    return torch.cat([colours_L3, torch.tensor([_UNKNOWN])]).to(torch.uint8)


def painted(classes_BHW: Tensor, colours_L3: Tensor) -> Tensor:
    """Class numbers, -1 for unknown, as pictures: float ``[B, 3, H, W]`` in [0, 1]."""
    return colours_L3.to(classes_BHW.device)[classes_BHW.long()].permute(0, 3, 1, 2).float() / 255
