"""From what a dense detector says at every place to a list of objects.

Letters: M places, L classes, N objects.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from mae_vlm.types import Frame

_CANDIDATES = 1000  # of a picture, before those that mean the same object are dropped
_SMALLEST = 0.1  # pixels: what is left of a box that lies in the padding


class Detections(NamedTuple):
    """Objects of one picture, the highest score first: boxes ``[N, 4]`` in pixels of the original, scores from 0 to 1, classes (int64)."""

    boxes_N4: Tensor
    scores_N: Tensor
    classes_N: Tensor


def detect(scores_ML: Tensor, boxes_M4: Tensor, frame: Frame, most: int, overlap: float) -> Detections:
    """The ``most`` best objects of one picture; of two of a class whose IoU is above ``overlap``, the lower is dropped.

    ``boxes_M4`` are in pixels of the prepared picture and are cut to the part of it that is no padding.
    """
    clipped_M4 = clip_boxes_to_image(boxes_M4, (frame.rows, frame.columns))
    seen_M = (clipped_M4[:, 2:] - clipped_M4[:, :2]).amin(1) > _SMALLEST
    masked = scores_ML.masked_fill(~seen_M[:, None], -1.0).flatten()
    best = masked.topk(min(max(_CANDIDATES, 10 * most), len(masked)))
    index = best.indices[best.values >= 0]
    scores_N = masked[index]
    place_N, classes_N = index // scores_ML.shape[1], index % scores_ML.shape[1]
    boxes_N4 = clipped_M4[place_N]
    kept = batched_nms(boxes_N4, scores_N, classes_N, overlap)[:most]
    return Detections(frame.outward(boxes_N4[kept]), scores_N[kept], classes_N[kept])


def above(found: Detections, threshold: float) -> Detections:
    """Those whose score is at least ``threshold``."""
    sure_N = found.scores_N >= threshold
    return Detections(*(part[sure_N] for part in found))
