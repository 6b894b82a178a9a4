"""The two stages of a Mask R-CNN, of torchvision's parts, in ViTDet's shape (Li et al. 2022, arXiv 2203.16527, appendix A.2).

Letters: B pictures, F width of the pyramid, M anchors, h, w cells down and across.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from timm.layers import LayerNorm2d
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from mae_vlm.types import TokenSpace

ANCHORS, REGIONS = (256, 0.5), (512, 0.25)  # drawn of a picture, and the largest share of those with an object
_ANCHOR = 8  # side of an anchor in strides of its level: 32 to 512 pixels on strides 4 to 64
_RATIOS = (0.5, 1.0, 2.0)
_BOX, _MASK = 7, 14  # cells down and across that a region is pooled to; a mask has twice as many


def detector_scales(space: TokenSpace) -> tuple[float, ...]:
    """Factors of the patch grid for four levels whose finest has a cell about every 4 pixels: 4, 2, 1 and 0.5 for patches of 16."""
    finest = 2.0 ** round(math.log2(space.patch / 4))
    return tuple(finest / 2**level for level in range(4))


def proposer(width: int, levels: int, proposals: int) -> RegionProposalNetwork:
    """The first stage: two convolutions, three anchors at each cell of every level, non-maximum suppression at 0.7 within a level."""
    sizes = tuple((1.0,) for _ in range(levels))  # set by the strides, see anchors_of
    return RegionProposalNetwork(
        AnchorGenerator(sizes, (_RATIOS,) * levels),
        RPNHead(width, len(_RATIOS), conv_depth=2),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=ANCHORS[0],
        positive_fraction=ANCHORS[1],
        pre_nms_top_n={"training": 2 * proposals, "testing": proposals},
        post_nms_top_n={"training": proposals, "testing": proposals},
        nms_thresh=0.7,
    )


def regions(width: int, hidden: int, strides: list[float], kinds: int, masks: bool, **answers: Any) -> RoIHeads:
    """The second stage: four convolutions and a layer for class and box, four convolutions and a doubling for the mask; LayerNorm.

    ``kinds`` are the classes and one for the background; ``answers`` are torchvision's options of what it detects.
    """
    more: dict[str, Any] = {}
    if masks:
        more["mask_roi_pool"] = _pool(strides, _MASK)
        more["mask_head"] = MaskRCNNHeads(width, (width,) * 4, 1, norm_layer=LayerNorm2d)
        more["mask_predictor"] = MaskRCNNPredictor(width, width, kinds)
    return RoIHeads(
        _pool(strides, _BOX),
        FastRCNNConvFCHead((width, _BOX, _BOX), [width] * 4, [hidden], norm_layer=LayerNorm2d),
        FastRCNNPredictor(hidden, kinds),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=REGIONS[0],
        positive_fraction=REGIONS[1],
        bbox_reg_weights=None,  # 10, 10, 5, 5
        **answers,
        **more,
    )


def _pool(strides: list[float], cells: int) -> MultiScaleRoIAlign:
    """Of the level that fits a region's size; torchvision would guess the strides from the first batch, and wrongly of odd grids."""
    pool = MultiScaleRoIAlign([str(level) for level in range(len(strides))], cells, sampling_ratio=0)
    pool.scales = [1 / stride for stride in strides]
    pool.map_levels = initLevelMapper(round(math.log2(strides[0])), round(math.log2(strides[-1])))
    return pool


def anchors_of(network: RegionProposalNetwork, maps: list[Tensor], strides: list[float]) -> Tensor:
    """All anchors of a picture, level by level: float32 ``[M, 4]``, whatever precision the maps have."""
    generator, device = network.anchor_generator, maps[0].device
    cell = partial(generator.generate_anchors, aspect_ratios=list(_RATIOS), device=device)
    generator.cell_anchors = [cell([_ANCHOR * stride]) for stride in strides]
    steps = [[torch.tensor(stride, device=device)] * 2 for stride in strides]
    return torch.cat(generator.grid_anchors([list(map_BFhw.shape[-2:]) for map_BFhw in maps], steps))
