"""From what a set of queries says to a list of objects.

Letters: Q queries, L classes, N objects.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from mae_vlm.heads.parts.dense_detections import Detections
from mae_vlm.types import Frame

_SMALLEST = 0.1  # pixels: what is left of a box that lies in the padding


def best_of(scores_QL: Tensor, boxes_Q4: Tensor, frame: Frame, most: int) -> tuple[Detections, Tensor]:
    """The ``most`` highest scores of any query and class, none dropped for another, and whose they are, int64 ``[N]``.

    ``boxes_Q4`` are in pixels of the prepared picture and are cut to the part of it that is no padding.
    """
    clipped_Q4 = clip_boxes_to_image(boxes_Q4, (frame.rows, frame.columns))
    seen_Q = (clipped_Q4[:, 2:] - clipped_Q4[:, :2]).amin(1) > _SMALLEST
    masked = scores_QL.masked_fill(~seen_Q[:, None], -1.0).flatten()
    best = masked.topk(min(most, len(masked)))
    index_N = best.indices[best.values >= 0]
    query_N = torch.div(index_N, scores_QL.shape[1], rounding_mode="floor")
    return Detections(frame.outward(clipped_Q4[query_N]), masked[index_N], index_N % scores_QL.shape[1]), query_N
