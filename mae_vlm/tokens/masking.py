"""Which patches to hide. Every mask is a ranking: the lowest scores stay visible, so any ratio is met to the patch.

Scores are pure functions of the batch's keys (seed, epoch, sample), drawn on the device by integer hashing: the same
step can be repeated anywhere, shapes are static, one argsort, nothing is read back by the host.

Letters: B pictures, N patches (rows x columns), K visible, M hidden, J rectangles.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from mae_vlm.tokens.chance import uniform
from mae_vlm.types import Masking, TokenSpace

_WORD = 2**24  # uniform() has 24 random bits: ranks are compared as exact integers


class Mask(ABC):
    """Hides ``ratio`` of the patches of every picture.

    Args:
        ratio: hidden share, strictly between 0 and 1; ``int(N * (1 - ratio))`` patches stay visible, as in the paper's code.

    Raises:
        ValueError: the ratio is outside (0, 1).
    """

    def __init__(self, ratio: float = 0.75) -> None:
        if not 0.0 < ratio < 1.0:
            raise ValueError(f"mask ratio {ratio} given, allowed is a share of the patches strictly between 0 and 1; 0.75 is the paper's")
        self.ratio = ratio

    def visible(self, space: TokenSpace) -> int:
        """How many patches stay visible.

        Raises:
            ValueError: the ratio leaves no patch visible, or none hidden, on this grid.
        """
        kept = int(space.patches * (1 - self.ratio))
        if not 0 < kept < space.patches:
            raise ValueError(
                f"mask ratio {self.ratio} leaves {kept} of {space.patches} patches visible; "
                f"choose a ratio that keeps at least 1 and hides at least 1, or a smaller patch"
            )
        return kept

    def __call__(self, keys_B: Tensor, space: TokenSpace) -> Masking:
        """Rank the patches of each picture by its key (int64 ``[B]``) and cut the ranking."""
        order_BN = self.scores(keys_B, space).argsort(dim=1, stable=True)  # ties alike on every device
        kept = self.visible(space)
        return Masking(order_BN[:, :kept], order_BN[:, kept:])

    @abstractmethod
    def scores(self, keys_B: Tensor, space: TokenSpace) -> Tensor:
        """One number per patch ``[B, N]``; the lowest stay visible."""


class RandomMask(Mask):
    """Every patch alike (MAE, He et al. 2021, section 3)."""

    def scores(self, keys_B: Tensor, space: TokenSpace) -> Tensor:
        return uniform(keys_B, space.patches)


def _then(first_BN: Tensor, second_BN: Tensor) -> Tensor:
    """Order by ``first``, ties by ``second`` (both in [0, 1) with 24 bits), exactly, as int64."""
    return (first_BN * _WORD).long() * _WORD + (second_BN * _WORD).long()


class CellMask(Mask):
    """Hides whole cells of ``cell`` x ``cell`` patches on a regular grid (Pixio, arXiv 2512.15715, hides 4 x 4).

    The one cell that the exact count cuts is hidden in part. Cells at the border may be smaller.
    """

    def __init__(self, ratio: float = 0.75, cell: int = 4) -> None:
        super().__init__(ratio)
        if cell < 1:
            raise ValueError(f"mask cell {cell} given, allowed is a number of patches from 1 up")
        self.cell = cell

    def scores(self, keys_B: Tensor, space: TokenSpace) -> Tensor:
        row, column = _places(space, keys_B.device)
        across = -(-space.columns // self.cell)
        cell_N = torch.div(row, self.cell, rounding_mode="floor") * across + torch.div(column, self.cell, rounding_mode="floor")
        down = -(-space.rows // self.cell)
        noise_BN = uniform(keys_B, down * across, stream=1)[:, cell_N]
        return _then(noise_BN, uniform(keys_B, space.patches))


class BlockMask(Mask):
    """Hides random rectangles until the count is met (BEiT, Bao et al. 2021, algorithm 1).

    Rectangles have an area of ``smallest`` up to 40 % of the hidden count and an aspect ratio between ``1 / aspect``
    and ``aspect``. They are laid in a fixed random order; a patch is hidden the earlier, the earlier it is covered.
    """

    def __init__(self, ratio: float = 0.6, smallest: int = 16, aspect: float = 1 / 0.3, rectangles: int = 32) -> None:
        super().__init__(ratio)
        if smallest < 1 or aspect < 1 or rectangles < 1:
            raise ValueError(f"block mask needs smallest >= 1, aspect >= 1 and rectangles >= 1, got {smallest}, {aspect}, {rectangles}")
        self.smallest, self.aspect, self.rectangles = smallest, aspect, rectangles

    def scores(self, keys_B: Tensor, space: TokenSpace) -> Tensor:
        hidden = space.patches - self.visible(space)
        draw_BJ4 = uniform(keys_B, 4 * self.rectangles, stream=1).view(len(keys_B), self.rectangles, 4)
        largest = max(self.smallest, 0.4 * hidden)
        area = self.smallest + draw_BJ4[..., 0] * (largest - self.smallest)
        aspect = self.aspect ** (2 * draw_BJ4[..., 1] - 1)
        height = (area * aspect).sqrt().round().clamp(1, space.rows)
        width = (area / aspect).sqrt().round().clamp(1, space.columns)
        top = (draw_BJ4[..., 2] * (space.rows - height + 1)).floor()
        left = (draw_BJ4[..., 3] * (space.columns - width + 1)).floor()
        row, column = _places(space, keys_B.device)
        inside_BJN = (row >= top[..., None]) & (row < (top + height)[..., None])
        inside_BJN &= (column >= left[..., None]) & (column < (left + width)[..., None])
        order_J1 = torch.arange(self.rectangles, device=keys_B.device)[:, None]
        first_BN = order_J1.expand_as(inside_BJN).masked_fill(~inside_BJN, self.rectangles).amin(dim=1)
        return uniform(keys_B, space.patches) - first_BN  # covered first: lowest order, so highest score: hidden first


class GridMask(Mask):
    """Keeps a regular lattice visible and adds random patches up to the exact count.

    The lattice is the densest square one that does not exceed the visible count; its offset is random.
    """

    def scores(self, keys_B: Tensor, space: TokenSpace) -> Tensor:
        kept = self.visible(space)
        step = 1
        while -(-space.rows // step) * -(-space.columns // step) > kept:
            step += 1
        offset_B2 = (uniform(keys_B, 2, stream=1) * step).long()
        row, column = _places(space, keys_B.device)
        off_lattice = ((row + offset_B2[:, :1]) % step != 0) | ((column + offset_B2[:, 1:]) % step != 0)
        return uniform(keys_B, space.patches) + off_lattice


class InverseBlockMask(Mask):
    """Keeps one compact block visible and hides the rest (data2vec 2.0, Baevski et al. 2022, section 3.2).

    The block is the square around a random centre; its rim is filled at random to the exact count.
    """

    def scores(self, keys_B: Tensor, space: TokenSpace) -> Tensor:
        centre_B2 = uniform(keys_B, 2, stream=1)
        row, column = _places(space, keys_B.device)
        down = (row - (centre_B2[:, :1] * space.rows).floor()).abs()
        across = (column - (centre_B2[:, 1:] * space.columns).floor()).abs()
        return torch.maximum(down, across) + uniform(keys_B, space.patches)


def _places(space: TokenSpace, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of every patch, int64 ``[N]`` each."""
    index = torch.arange(space.patches, device=device)
    return torch.div(index, space.columns, rounding_mode="floor"), index % space.columns
