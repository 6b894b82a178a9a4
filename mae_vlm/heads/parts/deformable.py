"""Attention to a few places of a map, which each query chooses around its box (Zhu et al. 2020, Deformable DETR, arXiv 2010.04159).

Places are (x, y) in shares of the picture, 0 to 1 from its left and upper edge. Letters: B pictures, Q queries, F width, n heads,
e numbers of a head, P places of a query and head, h, w cells of the map.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional


def gathered(map_BFhw: Tensor, places_BQnP2: Tensor, weights_BQnP: Tensor) -> Tensor:
    """The weighted sum of what stands at a query's places, each head in its own part of the channels: ``[B, Q, F]``.

    Bilinear between the cells' centres, zero outside of the map. Sampled in float32 at least: in half precision a place of a large
    picture would be off by pixels.
    """
    heads = places_BQnP2.shape[2]
    wide = torch.promote_types(map_BFhw.dtype, torch.float32)
    maps = rearrange(map_BFhw.to(wide), "b (n e) h w -> (b n) e h w", n=heads)
    places = rearrange(places_BQnP2.to(wide), "b q n p two -> (b n) q p two")
    found = functional.grid_sample(maps, 2 * places - 1, mode="bilinear", padding_mode="zeros", align_corners=False)
    weighted = found * rearrange(weights_BQnP.to(wide), "b q n p -> (b n) 1 q p")
    return rearrange(weighted.sum(-1), "(b n) e q -> b q (n e)", n=heads)


class DeformableAttention(nn.Module):
    """What queries find at ``points`` places each and for each of the heads, chosen relative to the size of their box.

    At first a head looks into its own direction from the box's centre, the k-th of its points at k shares of half the box, all alike.

    Args:
        width: F, a multiple of the heads.
        heads: n.
        points: P.
    """

    def __init__(self, width: int, heads: int, points: int) -> None:
        super().__init__()
        self.heads, self.points = heads, points
        self.offsets = nn.Linear(width, heads * points * 2)
        self.weights = nn.Linear(width, heads * points)
        self.values = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self._start()

    def forward(self, queries_BQF: Tensor, boxes_BQ4: Tensor, map_BFhw: Tensor) -> Tensor:
        """``boxes_BQ4`` are centre, width and height in shares of the picture; returns ``[B, Q, F]``."""
        offsets = rearrange(self.offsets(queries_BQF), "b q (n p two) -> b q n p two", n=self.heads, two=2)
        weights_BQnP = rearrange(self.weights(queries_BQF), "b q (n p) -> b q n p", n=self.heads).softmax(-1)
        centres, sizes = (part[:, :, None, None] for part in boxes_BQ4.chunk(2, dim=-1))
        places_BQnP2 = centres + offsets.to(sizes.dtype) / self.points * sizes * 0.5
        values_BFhw = self.values(map_BFhw.movedim(1, -1)).movedim(-1, 1)
        found_BQF: Tensor = self.out(gathered(values_BFhw, places_BQnP2, weights_BQnP).to(queries_BQF.dtype))
        return found_BQF

    def _start(self) -> None:
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction_n2 = torch.stack([angles.cos(), angles.sin()], dim=-1)
        direction_n2 = direction_n2 / direction_n2.abs().amax(-1, keepdim=True)
        steps_P = torch.arange(1, self.points + 1)
        with torch.no_grad():
            self.offsets.bias.copy_((direction_n2[:, None] * steps_P[:, None]).flatten())
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)
        for layer in (self.values, self.out):
            nn.init.xavier_uniform_(layer.weight)
        for layer in (self.weights, self.values, self.out):
            nn.init.zeros_(layer.bias)
