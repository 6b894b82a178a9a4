"""Pictures side by side on one sheet.

Letters: B pictures, C channels, H, W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def contact_sheet(columns: list[Tensor], gap: int = 2) -> Tensor:
    """Pictures ``[B, C, H, W]`` per column, values in [0, 1], to one white-ruled sheet ``[C, B * (H + 2 gap), columns * (W + 2 gap)]``.

    Grey columns are shown beside coloured ones: a single channel is repeated where another column has three.
    """
    most = max(column.shape[1] for column in columns)
    even = [column.expand(-1, most, -1, -1) if column.shape[1] == 1 else column for column in columns]
    padded = [functional.pad(column, (gap, gap, gap, gap), value=1.0) for column in even]
    return torch.cat(list(torch.cat(padded, dim=3)), dim=1)


def shown_channels(pictures: Tensor) -> Tensor:
    """One or three channels to draw, of ``[..., C, H, W]``: three or more keep the first three, two are drawn as their mean."""
    channels = pictures.shape[-3]
    return pictures if channels in (1, 3) else pictures[..., :3, :, :] if channels > 3 else pictures.mean(dim=-3, keepdim=True)
