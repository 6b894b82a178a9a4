"""The losses of the two stages of a Mask R-CNN: torchvision's own, of each picture by itself.

Letters: B pictures, M anchors, R regions of all pictures, N objects, m cells of a mask down and across.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork

from mae_vlm.heads.parts.keyed_sampler import KeyedSampler
from mae_vlm.heads.parts.region_stages import ANCHORS, REGIONS

Known = dict[str, Tensor]  # of a picture: boxes [N, 4], labels [N] from 1, masks [N, H, W]
_ANCHOR_STREAM, _REGION_STREAM = 0, 1  # of chance


class Drawn(NamedTuple):
    """Regions to learn from, of each picture: boxes ``[., 4]``, numbers of their objects, labels (0: background), and where to move."""

    boxes: list[Tensor]
    owners: list[Tensor]
    labels: list[Tensor]
    moves: list[Tensor]


def proposal_losses(
    network: RegionProposalNetwork, objectness_BM: Tensor, moves_BM4: Tensor, anchors_M4: Tensor, known: list[Known], keys_B: Tensor
) -> tuple[Tensor, Tensor]:
    """Of each picture, over the anchors drawn of it: whether there is an object, and where its box is, ``[B]`` each."""
    anchors = [anchors_M4] * len(known)
    labels, boxes = network.assign_targets_to_anchors(anchors, known)
    wanted = network.box_coder.encode(boxes, anchors)
    found = []
    for index, key_1 in enumerate(torch.split(keys_B, 1)):
        network.fg_bg_sampler = KeyedSampler(*ANCHORS, key_1, _ANCHOR_STREAM)
        found.append(network.compute_loss(objectness_BM[index], moves_BM4[index], labels[index : index + 1], wanted[index : index + 1]))
    there, where = zip(*found, strict=True)
    return torch.stack(there), torch.stack(where)


def drawn(stage: RoIHeads, proposals: list[Tensor], known: list[Known], keys_B: Tensor) -> Drawn:
    """Proposals and true boxes to learn from; of a picture with objects at least one is of an object."""
    stage.fg_bg_sampler = KeyedSampler(*REGIONS, keys_B, _REGION_STREAM)
    return Drawn(*stage.select_training_samples(list(proposals), known))


def region_losses(kinds_RL: Tensor, moves_R: Tensor, regions: Drawn) -> tuple[Tensor, Tensor]:
    """Of each picture, over the regions drawn of it: class, and box of those with an object, ``[B]`` each."""
    counts = [len(one) for one in regions.labels]
    said = (torch.split(one.float(), counts) for one in (kinds_RL, moves_R))
    parts = zip(*said, regions.labels, regions.moves, strict=True)
    found = [fastrcnn_loss(kinds, moves, [labels], [wanted]) for kinds, moves, labels, wanted in parts]
    kinds, boxes = zip(*found, strict=True)
    return torch.stack(kinds), torch.stack(boxes)


def of_objects(regions: Drawn) -> list[Tensor]:
    """Boxes of the drawn regions with an object, of each picture."""
    return [boxes[labels > 0] for boxes, labels in zip(regions.boxes, regions.labels, strict=True)]


def mask_losses(logits_RLmm: Tensor, regions: Drawn, known: list[Known]) -> Tensor:
    """Of each picture the mean over the cells of all regions with an object, of the mask of its class, ``[B]``; 0 without any."""
    boxes = of_objects(regions)
    found = []
    for index, logits in enumerate(torch.split(logits_RLmm.float(), [len(one) for one in boxes])):
        owners = regions.owners[index][regions.labels[index] > 0]
        rows, place = torch.unique(owners, return_inverse=True)  # only their masks become numbers: 2,000 might not fit
        masks, labels = known[index]["masks"][rows], known[index]["labels"][rows]
        middles = boxes[index] - 0.5  # torchvision cuts the truth out as if pixels had their middles at whole numbers
        found.append(maskrcnn_loss(logits, [middles], [masks], [labels], [place]) if len(rows) else logits.sum())
    return torch.stack(found)
