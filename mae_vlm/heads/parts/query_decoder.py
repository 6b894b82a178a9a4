"""Queries that look at each other and at a map, each around a box of its own.

Boxes are centre, width and height in shares of the picture. Letters: B pictures, Q queries of all groups, q of one group, F width,
G groups, n heads, h, w cells of the map.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from mae_vlm.heads.parts.deformable import DeformableAttention

_TEMPERATURE = 10_000


class QueryDecoder(nn.Module):
    """LW-DETR's decoder (Chen et al. 2024, arXiv 2406.03459, section 3.1): layers of attention to each other and to places around a box.

    The boxes stay the same for all layers; a query's position is made from its box. Norms follow each sum. There is no dropout.

    Args:
        width: F, a multiple of 4 and of twice the heads.
        layers: how many.
        heads: of the attention to each other; that to the map has twice as many.
        points: places of a query and head.
        hidden: width inside the MLPs.
    """

    def __init__(self, width: int, layers: int, heads: int, points: int, hidden: int) -> None:
        super().__init__()
        self.position = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(DecoderLayer(width, heads, points, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for layer in (self.position[0], self.position[2]):
            nn.init.xavier_uniform_(layer.weight)  # type: ignore[arg-type]

    def forward(self, queries_BQF: Tensor, boxes_BQ4: Tensor, map_BFhw: Tensor, groups: int) -> list[Tensor]:
        """What the queries ``[B, Q, F]``, of ``groups`` that do not see each other, are after each layer."""
        waves_BQW = waves(boxes_BQ4, queries_BQF.shape[-1] // 2).to(queries_BQF.dtype)
        position_BQF, states = self.position(waves_BQW), []
        for layer in self.layers:
            queries_BQF = layer(queries_BQF, position_BQF, boxes_BQ4, map_BFhw, groups)
            states.append(self.norm(queries_BQF))
        return states


class DecoderLayer(nn.Module):
    """One layer, see :class:`QueryDecoder`."""

    def __init__(self, width: int, heads: int, points: int, hidden: int) -> None:
        super().__init__()
        self.others = GroupAttention(width, heads)
        self.places = DeformableAttention(width, 2 * heads, points)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        for layer in (self.mlp[0], self.mlp[2]):
            nn.init.xavier_uniform_(layer.weight)  # type: ignore[arg-type]

    def forward(self, queries_BQF: Tensor, position_BQF: Tensor, boxes_BQ4: Tensor, map_BFhw: Tensor, groups: int) -> Tensor:
        queries_BQF = self.norms[0](queries_BQF + self.others(queries_BQF, position_BQF, groups))
        queries_BQF = self.norms[1](queries_BQF + self.places(queries_BQF + position_BQF, boxes_BQ4, map_BFhw))
        result_BQF: Tensor = self.norms[2](queries_BQF + self.mlp(queries_BQF))
        return result_BQF


class GroupAttention(nn.Module):
    """Attention among the queries of each group (Group DETR: Chen et al. 2022, arXiv 2207.13085), where positions count but for values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key, self.value, self.out = nn.Linear(width, 2 * width), nn.Linear(width, width), nn.Linear(width, width)
        for part in (*self.query_key.weight.chunk(2), self.value.weight, self.out.weight):
            nn.init.xavier_uniform_(part)

    def forward(self, queries_BQF: Tensor, position_BQF: Tensor, groups: int) -> Tensor:
        split = {"g": groups, "n": self.heads}
        both = self.query_key(queries_BQF + position_BQF)
        query, key = rearrange(both, "b (g q) (two n e) -> two (b g) n q e", two=2, **split)
        value = rearrange(self.value(queries_BQF), "b (g q) (n e) -> (b g) n q e", **split)
        found = functional.scaled_dot_product_attention(query, key, value)
        result_BQF: Tensor = self.out(rearrange(found, "(b g) n q e -> b (g q) (n e)", g=groups))
        return result_BQF


def waves(boxes: Tensor, count: int) -> Tensor:
    """Sines and cosines of each of the four numbers ``[..., 4]`` of a box, in turn: ``[..., 4 * count]``, y before x, then both sides.

    Their lengths are the picture's side times powers of 10,000 (DAB-DETR: Liu et al. 2022, arXiv 2201.12329, section 4.2).
    """
    lengths = _TEMPERATURE ** (torch.arange(count // 2, device=boxes.device, dtype=boxes.dtype) * 2 / count)
    angles = boxes[..., (1, 0, 2, 3), None] * (2 * math.pi) / lengths
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-3)
