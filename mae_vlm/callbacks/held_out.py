"""The validation pictures that probes look at: the same few in every run, and what a probe makes of their features.

Letters: B pictures of the part, b those that this process holds, L blocks, D width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mae_vlm.data.reader import Reader
from mae_vlm.data.sampler import Draw
from mae_vlm.data.split import name_hashes
from mae_vlm.encoders.image import ImageTower
from mae_vlm.encoders.intermediate import block_means
from mae_vlm.heads.parts.linear_probe import linear_probe, standardised
from mae_vlm.heads.parts.nearest import nearest_neighbours

FEWEST = 10  # pictures to fit to: a tenth of them chooses the decay
_DECAYS = (1e-2, 1e-1, 1.0)  # hundreds of pictures, not tens of thousands: stronger than for a whole training set
_TOLERANCE = 1e-3  # 1e-4 costs up to twice as much and moves no score by more than chance does
_AT_ONCE = 64  # pictures whose tokens of all blocks exist at one time
_BYTES = 1 << 29  # of pixels kept, at most, on one process
_ON_DEVICE = 1e8  # products a step of the solver from which a GPU pays: below, starting its kernels takes longer than they do


class Scores(NamedTuple):
    """Shares of right answers, 0 to 1; ``held`` is of the pictures that chose the decay, and chooses the block."""

    linear: float
    knn: float
    held: float


class HeldOut:
    """``count`` pictures of a validation source, chosen by the hashes of their names, their pixels in memory.

    Every process holds every ``world``-th of them, and as many as the others: a process's last may be one that another holds too. The
    smaller of two counts is a part of the larger.
    """

    def __init__(self, reader: Reader, count: int, rank: int = 0, world: int = 1) -> None:
        hashes = name_hashes(reader.source.names())
        chosen = np.argsort(hashes, kind="stable")[:count].tolist()
        first = reader[[Draw(chosen[0], 0)]].images_BCHW
        self.count = max(1, min(len(chosen), _BYTES * world // (first.numel() * first.element_size())))
        self.world = world
        places = range(rank, -(-self.count // world) * world, world)
        draws = [Draw(chosen[place % self.count], 0, place < self.count) for place in places]  # epoch 0: as validation sees them
        self.batches = [reader[draws[start : start + _AT_ONCE]] for start in range(0, len(draws), _AT_ONCE)]

    @property
    def ids(self) -> list[str]:
        """Names of the pictures that this process holds."""
        return [name for batch in self.batches for name, real in zip(batch.ids, batch.real_B.tolist(), strict=True) if real]

    def labels(self, pl_module: Any) -> Tensor:
        """``[B]``, -1 where there is none and where the picture could not be read."""
        own_b = torch.cat([batch.labels_B.masked_fill(~batch.real_B, -1) for batch in self.batches])
        return self._gathered(pl_module, own_b[None, :, None])[0, :, 0]

    def features(self, pl_module: Any, encoder: ImageTower) -> Tensor:
        """Of every block, float32 ``[L, B, D]``, on the module's device; every process must call it at the same step."""
        rows = [block_means(encoder, encoder.normalise(batch.images_BCHW.to(pl_module.device))) for batch in self.batches]
        return self._gathered(pl_module, torch.cat(rows, dim=1))

    def _gathered(self, pl_module: Any, own_LbD: Tensor) -> Tensor:
        """``[L, b, D]`` of every process to ``[L, B, D]``, in the order in which the pictures were dealt."""
        if self.world == 1:
            return own_LbD
        all_wLbD: Tensor = pl_module.all_gather(own_LbD.to(pl_module.device))
        return all_wLbD.permute(1, 2, 0, 3).flatten(1, 2)[:, : self.count]


def halves(labels_B: Tensor) -> tuple[Tensor, Tensor]:
    """Places of the pictures in two halves, each class shared out evenly; classes of one picture and pictures without label in none."""
    first, second, turn = [labels_B.new_empty(0)], [labels_B.new_empty(0)], 0
    for label in torch.unique(labels_B).tolist():
        places = (labels_B == label).nonzero()[:, 0]
        if label >= 0 and len(places) > 1:
            first.append(places[turn::2])
            second.append(places[1 - turn :: 2])
            turn = (turn + len(places)) % 2  # the odd one goes to the other half the next time
    return torch.cat(first).sort().values, torch.cat(second).sort().values


def why_unlabelled(labels_B: Tensor) -> str:
    """Why no probe can be fitted to pictures that have labels, in one line; empty where one can, and where there are no labels."""
    known_B = labels_B[labels_B >= 0]
    first, second = halves(labels_B)
    classes, kept = len(torch.unique(known_B)), len(torch.unique(labels_B[first]))
    if not len(known_B) or (kept > 1 and min(len(first), len(second)) >= FEWEST):
        return ""
    if classes == 1:
        return f"the {len(known_B)} labelled ones of {len(labels_B)} held-out pictures are of one class"
    return (
        f"{len(known_B)} labelled held-out pictures of {classes} classes are too few (2 of a class, {2 * FEWEST} in all); "
        "keep more by data.val_fraction or data.val_path"
    )


def crosswise(features_BD: Tensor, labels_B: Tensor) -> Scores:
    """Linear probe and nearest neighbours, each half of the pictures answered by what was fitted to the other half.

    Features are centred and standardised by the half fitted to; each picture is scored once.
    """
    first, second = halves(labels_B)
    rows = []
    for fitted, scored in ((first, second), (second, first)):
        train_BD, scored_BD = standardised(features_BD[fitted], features_BD[scored])
        probed = linear_probe(train_BD, labels_B[fitted], scored_BD, labels_B[scored], _DECAYS, _TOLERANCE)
        knn = nearest_neighbours(train_BD, labels_B[fitted], scored_BD, labels_B[scored])
        rows.append(torch.tensor([probed.top1, knn, probed.held], dtype=torch.float64) * len(scored) / (len(first) + len(second)))
    return Scores(*torch.stack(rows).sum(dim=0).tolist())


def placed(features_LBD: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
    """Both where the fits run faster: large ones on the GPU, small ones on the host."""
    classes = len(torch.unique(labels_B))
    large = features_LBD[0].numel() * classes >= _ON_DEVICE and features_LBD.device.type == "cuda"
    device = features_LBD.device if large else torch.device("cpu")
    return features_LBD.to(device), labels_B.to(device)
