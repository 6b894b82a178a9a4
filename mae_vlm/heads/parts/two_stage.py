"""Boxes from the cells of a map, the best of which queries start from.

Boxes are centre, width and height in shares of the picture. Letters: B pictures, F width, N cells of the map, Q queries, L classes;
dots stand for any dimensions in front.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mae_vlm.tokens.patchify import take

_SIDE = 0.05  # of a cell's first box
_EDGE = 0.01  # cells whose centre lies nearer to the picture's edge propose nothing
_LARGEST = 10.0  # of a side's logarithm, relative to where it started: a freely growing one would overflow
_RARE = 0.01  # share of the answers that name an object, from which training starts


def squares(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """The first box of each cell, row by row ``[N, 4]``, and which cells may propose it, bool ``[N]``."""
    down, across = (torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns
    centres_N2 = torch.cartesian_prod(down, across).flip(1)
    inside = torch.tensor(_inside(rows))[:, None] & torch.tensor(_inside(columns))
    return torch.cat([centres_N2, torch.full_like(centres_N2, _SIDE)], dim=1), inside.flatten()


def proposing(rows: int, columns: int) -> int:
    """How many cells may propose a box; known without any tensor."""
    return sum(_inside(rows)) * sum(_inside(columns))


def _inside(cells: int) -> list[bool]:
    return [_EDGE < (cell + 0.5) / cells < 1 - _EDGE for cell in range(cells)]


def moved(boxes: Tensor, raw: Tensor) -> Tensor:
    """Boxes ``[..., 4]`` moved by shares of their sides and stretched by factors whose logarithms are given, in float32 at least."""
    raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
    centre = boxes[..., :2] + raw[..., :2] * boxes[..., 2:]
    return torch.cat([centre, boxes[..., 2:] * raw[..., 2:].clamp(-_LARGEST, _LARGEST).exp()], dim=-1)


class Proposer(nn.Module):
    """Names the cells of a map that show an object and their boxes: the first of LW-DETR's two stages, for one group of queries.

    Args:
        width: F.
        classes: L.
        queries: how many cells to name.
    """

    def __init__(self, width: int, classes: int, queries: int) -> None:
        super().__init__()
        self.queries = queries
        self.look = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))
        self.classes, self.boxes = class_layer(width, classes), box_layers(width)
        nn.init.xavier_uniform_(self.look[0].weight)  # type: ignore[arg-type]

    def forward(self, cells_BNF: Tensor, squares_N4: Tensor, inside_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits ``[B, Q, L]``, boxes ``[B, Q, 4]`` and features ``[B, Q, F]`` of the cells with the highest logit of any class, in order.

        All cells are compared without a gradient; those that are named are looked at again with one, which saves most of the backward pass.
        """
        with torch.no_grad():
            best_BN = self.classes(self.look(cells_BNF)).amax(-1).masked_fill(~inside_N, -torch.inf)
            index_BQ = best_BN.topk(self.queries, dim=1).indices
        seen_BQF = self.look(take(cells_BNF, index_BQ))
        return self.classes(seen_BQF), moved(squares_N4[index_BQ], self.boxes(seen_BQF)), seen_BQF


def class_layer(width: int, classes: int) -> nn.Linear:
    """A layer that at first answers every class with a probability of about 1 %."""
    layer = nn.Linear(width, classes)
    nn.init.constant_(layer.bias, math.log(_RARE / (1 - _RARE)))
    return layer


def box_layers(width: int) -> nn.Sequential:
    """Three layers from a token to how a box is moved; at first it stays."""
    last = nn.Linear(width, 4)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), last)
