"""What is true of a picture, as masks to learn and as segments to measure by.

Letters: N objects, G segments, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Set

import numpy as np
import torch
from torch import Tensor

from mae_vlm.heads.parts.mask_set_loss import Truth
from mae_vlm.types import Batch, Target


def object_truths(batch: Batch, stuff: Set[int] = frozenset()) -> list[Truth | None]:
    """The objects of each picture that are no crowds, those of one ``stuff`` class as one; None for a picture that only fills up."""
    pairs = zip(batch.targets, batch.real_B.tolist(), strict=True)
    return [_objects(target, stuff) if real else None for target, real in pairs]


def prepared(target: Target) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Objects in the prepared picture without its padding: bool masks, classes, crowds, and areas in pixels of the original."""
    masks_NHW, classes_N, crowds_N = _parts(target)
    frame = target.frame
    masks_NHW = masks_NHW[:, : frame.rows, : frame.columns]
    scale = (frame.window_height / frame.rows) * (frame.window_width / frame.columns)
    return masks_NHW, classes_N, crowds_N, masks_NHW.flatten(1).sum(1) * scale


def originals(target: Target) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All objects of the original picture in its own pixels: bool masks ``[N, height, width]``, classes, crowds and areas, on the CPU."""
    assert target.whole is not None
    height, width = target.frame.height, target.frame.width
    bits_NP = np.unpackbits(target.whole.masks.cpu().numpy(), axis=1, count=height * width)
    masks_NHW = torch.from_numpy(bits_NP).view(-1, height, width).bool()
    return masks_NHW, target.whole.classes.cpu(), target.whole.crowds.cpu(), masks_NHW.flatten(1).sum(1)


def semantic_truths(batch: Batch) -> list[Truth | None]:
    """A mask for each class that a picture's map shows; None where nothing is known, or the picture only fills up."""
    found: list[Truth | None] = []
    for target, real in zip(batch.targets, batch.real_B.tolist(), strict=True):
        assert target.semantic is not None
        classes_N = torch.unique(target.semantic).long()
        classes_N = classes_N[classes_N >= 0]
        known = real and len(classes_N) > 0
        found.append(Truth(target.semantic == classes_N[:, None, None], classes_N) if known else None)
    return found


def segments_of(target: Target) -> tuple[Tensor, Tensor, Tensor]:
    """Objects as segments: a map of int32 ``[H, W]`` without the padding, 0 for the unknown and k for segment k - 1, classes, crowds.

    Where masks overlap, the smaller object lies on the larger one.
    """
    masks_NHW, classes_N, crowds_N = _parts(target)
    map_HW = torch.zeros(masks_NHW.shape[1:], dtype=torch.int32, device=masks_NHW.device)
    for index in masks_NHW.flatten(1).sum(1).argsort(descending=True, stable=True).tolist():
        map_HW[masks_NHW[index]] = index + 1
    return map_HW[: target.frame.rows, : target.frame.columns], classes_N, crowds_N


def _objects(target: Target, stuff: Set[int]) -> Truth:
    masks_NHW, classes_N, crowds_N = _parts(target)
    masks_NHW, classes_N = masks_NHW[~crowds_N], classes_N[~crowds_N]
    several = [number for number in sorted(stuff) if int((classes_N == number).sum()) > 1]
    for number in several:
        own_N = classes_N == number
        whole_1HW = masks_NHW[own_N].any(0, keepdim=True)
        masks_NHW = torch.cat([masks_NHW[~own_N], whole_1HW])
        classes_N = torch.cat([classes_N[~own_N], classes_N[own_N][:1]])
    return Truth(masks_NHW, classes_N)


def _parts(target: Target) -> tuple[Tensor, Tensor, Tensor]:
    assert target.masks is not None and target.classes is not None and target.crowds is not None
    return target.masks, target.classes, target.crowds
