"""Masks of what queries found, as in the segmentation variant of RF-DETR.

Letters: B pictures, Q queries of all groups, F width, N objects of a picture, M pairs of query and object in a batch, K queries asked for,
P points, h, w cells of a mask, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mae_vlm.heads.parts.box_set_loss import Pairs, Truth
from mae_vlm.heads.parts.mask_set_loss import CANDIDATES, MATCH, RANDOM, STREAMS
from mae_vlm.heads.parts.matching import mask_costs
from mae_vlm.heads.parts.point_loss import OVERSAMPLE, UNCERTAIN, chosen_points, logits_at, mask_losses, random_points

MASK_WEIGHTS = {"classes": 5.0, "masks": 5.0, "dice": 5.0}  # of the terms: that of the classes is five times what it is without masks
_COSTS = (0.0, 5.0, 5.0)  # of class (which the boxes' costs hold already), binary cross-entropy and Dice
_SPARSE = 16  # cells of a mask for each point at which it is compared


class Drawn(NamedTuple):
    """What masks are made of, kept apart: ``queries`` ``[B, Q, F]``, ``cells`` ``[B, F, h, w]`` and ``bias`` ``[B]``, all alike.

    All masks of all groups would not fit; most of them nobody asks for.
    """

    queries: Tensor
    cells: Tensor
    bias: Tensor

    def logits(self, picture: int, query_K: Tensor) -> Tensor:
        """The masks of some queries of one picture, float32 ``[K, h, w]``."""
        flat_KI = self.queries[picture, query_K].float() @ self.cells[picture].float().flatten(1) + self.bias[picture].float()
        return flat_KI.view(-1, *self.cells.shape[2:])

    @property
    def points(self) -> int:
        """At how many a mask is compared with the truth."""
        rows, columns = self.cells.shape[2:]
        return max(rows, rows * columns // _SPARSE)


class MaskBranch(nn.Module):
    """A mask for each query: its product with every cell of a finer map, which a block works on for each layer of the decoder.

    Source: RF-DETR-Seg (Robinson et al. 2025, arXiv 2511.09554). What is proposed before the decoder is drawn on the map as it comes.

    Args:
        width: F.
        layers: of the decoder.
        scale: cells of a mask to each side of a patch.
    """

    def __init__(self, width: int, layers: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.blocks = nn.ModuleList(_CellBlock(width) for _ in range(layers))
        self.cells = nn.Conv2d(width, width, 1)
        self.think = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.ask = nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, map_BFhw: Tensor, proposed_BQF: Tensor, states: list[Tensor], all_depths: bool) -> list[Drawn]:
        """Of what is proposed and of every layer's queries, or (not ``all_depths``) of the last layer's alone."""
        size = tuple(self.scale * side for side in map_BFhw.shape[2:])
        fine_BFhw = map_BFhw if self.scale == 1 else functional.interpolate(map_BFhw, size=size, mode="bilinear", align_corners=False)
        drawn = [self._drawn(proposed_BQF, fine_BFhw)] if all_depths else []
        for number, (block, state_BQF) in enumerate(zip(self.blocks, states, strict=True), start=1):
            fine_BFhw = block(fine_BFhw)
            if all_depths or number == len(states):
                drawn.append(self._drawn(state_BQF, self.cells(fine_BFhw)))
        return drawn

    def _drawn(self, state_BQF: Tensor, cells_BFhw: Tensor) -> Drawn:
        return Drawn(self.ask(state_BQF + self.think(state_BQF)), cells_BFhw, self.bias.expand(len(cells_BFhw)))


class _CellBlock(nn.Module):
    """A depthwise 3 x 3 convolution, a norm, a linear layer and GELU, added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spread = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.mix = nn.Sequential(nn.LayerNorm(width, eps=1e-6), nn.Linear(width, width), nn.GELU())

    def forward(self, map_BFhw: Tensor) -> Tensor:
        mixed: Tensor = self.mix(self.spread(map_BFhw).movedim(1, -1)).movedim(-1, 1)
        return map_BFhw + mixed


@torch.no_grad()
def drawing_costs(drawn: Drawn, truth: Truth, picture: int, keys_B: Tensor, number: int) -> Tensor:
    """What it costs by its mask to let each query of output ``number`` answer for each object, at random points: float32 ``[Q, N]``."""
    assert truth.masks is not None
    points_1P2 = random_points(keys_B[picture : picture + 1], drawn.points, STREAMS * number + MATCH)
    cells_FP = logits_at(drawn.cells[picture : picture + 1].float(), points_1P2)[0]
    said_QP = drawn.queries[picture].float() @ cells_FP + drawn.bias[picture].float()
    rows_N = torch.arange(len(truth.classes), device=keys_B.device)
    alike_Q1, kinds_N = said_QP.new_zeros(len(said_QP), 1), torch.zeros_like(rows_N)
    return mask_costs(alike_Q1, said_QP, kinds_N, true_at(truth.masks, rows_N, points_1P2), _COSTS)


def drawing_sums(drawn: Drawn, pairs: Pairs, truths: Sequence[Truth | None], keys_B: Tensor, groups: int, number: int) -> dict[str, Tensor]:
    """Binary cross-entropy ``masks`` and ``dice``, of output ``number``, as sums over the pairs.

    Most of the points are where a mask is least certain (see ``point_loss``). Without a pair 0, with a gradient of 0 for all.
    """
    entropy = dice = torch.stack([part.flatten()[:0].float().sum() for part in drawn]).sum()
    points, doubtful, most = drawn.points, int(UNCERTAIN * drawn.points), drawn.queries.shape[1] // groups
    candidates_BC2 = random_points(keys_B, OVERSAMPLE * points, STREAMS * number + CANDIDATES)
    random_BR2 = random_points(keys_B, points - doubtful, STREAMS * number + RANDOM)
    counts = [0 if truth is None else groups * min(len(truth.classes), most) for truth in truths]  # pairs come picture by picture
    own = zip(truths, torch.split(pairs.query, counts), torch.split(pairs.object, counts), strict=True)
    for picture, (truth, query_M, object_M) in enumerate(own):
        if truth is not None and truth.masks is not None and len(query_M):
            said_Mhw = drawn.logits(picture, query_M)
            candidates_MC2, random_MR2 = (part[picture].expand(len(query_M), -1, -1) for part in (candidates_BC2, random_BR2))
            points_MP2 = chosen_points(said_Mhw, candidates_MC2, random_MR2, points)
            said_MP, true_MP = logits_at(said_Mhw[:, None], points_MP2)[:, 0], true_at(truth.masks, object_M, points_MP2)
            entropy_M, dice_M = mask_losses(said_MP, true_MP)
            entropy, dice = entropy + entropy_M.sum(), dice + dice_M.sum()
    return {"masks": entropy, "dice": dice}


def true_at(masks_NHW: Tensor, rows_M: Tensor, points_MP2: Tensor) -> Tensor:
    """The masks of the objects ``rows_M`` in the pixel that each point lies in: float32 ``[M, P]``; points ``[M or 1, P, 2]``."""
    height, width = masks_NHW.shape[1:]
    column_MP = (points_MP2[..., 0] * width).long().clamp(0, width - 1)
    row_MP = (points_MP2[..., 1] * height).long().clamp(0, height - 1)
    return masks_NHW[rows_M[:, None], row_MP, column_MP].float()
