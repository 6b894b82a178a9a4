"""Fixed two-dimensional sine-cosine positions, as in MAE (He et al. 2021, appendix A.1) and MoCo v3."""

from __future__ import annotations

import torch
from torch import Tensor


def sincos_1d(width: int, places: Tensor, base: float = 10000.0) -> Tensor:
    """Sine then cosine of ``places`` ``[N]`` at ``width / 2`` geometric frequencies: float64 ``[N, width]``."""
    frequencies = base ** (-torch.arange(width // 2, dtype=torch.float64) / (width / 2))
    angles = places.to(torch.float64).flatten()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def sincos_2d(width: int, rows: int, columns: int, prefix: int = 0) -> Tensor:
    """The table of a ``rows`` x ``columns`` grid: float32 ``[prefix + rows * columns, width]``, zeros for prefix tokens.

    The first half of the width holds the column (the picture's width direction), the second half the row, as the
    paper's code does it; checkpoints depend on that order.

    Raises:
        ValueError: the width is not a multiple of 4.
    """
    if width % 4:
        raise ValueError(
            f"sine-cosine positions need a width that is a multiple of 4, got {width}; choose another width or positions: learned"
        )
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    table = torch.cat([sincos_1d(width // 2, column), sincos_1d(width // 2, row)], dim=1)
    return torch.cat([torch.zeros(prefix, width, dtype=torch.float64), table]).float()
