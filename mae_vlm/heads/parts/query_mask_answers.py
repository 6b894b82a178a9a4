"""What becomes of the masks of a batch's detections: measured, handed out, and drawn.

Letters: B pictures, N detections, G true objects, h, w cells of a mask, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mae_vlm.heads.parts import mask_answers, mask_pictures
from mae_vlm.heads.parts.dense_detections import Detections
from mae_vlm.heads.parts.mask_metrics import MOST, MaskPrecision
from mae_vlm.heads.parts.mask_truths import segments_of
from mae_vlm.types import Batch, Prediction

Found = Sequence[tuple[Detections, Tensor]]  # of each picture: what is detected, and logits of the masks [N, h, w]


def measure_masks(metric: MaskPrecision, found: Found, batch: Batch) -> None:
    """In pixels of the prepared picture: memory does not grow with the originals."""
    for (one, logits_Nhw), target, real in zip(found, batch.targets, batch.real_B.tolist(), strict=True):
        frame, most, count = target.frame, MOST if real else 0, None if real else 0  # padding adds a picture without anything
        assert target.masks is not None and target.classes is not None and target.crowds is not None
        masks_NHW = widened(logits_Nhw[:most], mask_answers.within(_size(batch), frame))
        true_GHW = target.masks[:count, : frame.rows, : frame.columns]
        areas_G = true_GHW.flatten(1).sum(1) * (frame.window_height / frame.rows) * (frame.window_width / frame.columns)
        metric.add(masks_NHW, one.scores_N[:most], one.classes_N[:most], true_GHW, target.classes[:count], target.crowds[:count], areas_G)


def with_masks(told: list[Prediction], found: Found, batch: Batch) -> list[Prediction]:
    """The predictions of the real pictures, each with its masks in pixels of the original."""
    real = batch.real_B.nonzero()[:, 0].tolist()
    widen = [mask_answers.in_original(_size(batch), batch.targets[picture].frame) for picture in real]
    masks = (widened(found[picture][1], wide).cpu() for picture, wide in zip(real, widen, strict=True))
    return [replace(one, masks=masks_NHW) for one, masks_NHW in zip(told, masks, strict=True)]


def masks_drawn(found: Found, batch: Batch, threshold: float) -> Tensor:
    """A row for each picture: itself, true masks, and those answered from ``threshold`` on, see ``mask_pictures.side_by_side``."""
    maps = []
    for (one, logits_Nhw), target in zip(found, batch.targets, strict=True):
        widen = mask_answers.within(_size(batch), target.frame)
        maps.append(mask_answers.painted(widened(logits_Nhw[one.scores_N >= threshold], widen)))
    return mask_pictures.side_by_side(batch.images_BCHW, [segments_of(target)[0] for target in batch.targets], maps, None)


def widened(logits_Nhw: Tensor, widen: mask_answers.Widen) -> Tensor:
    """Masks as bool ``[N, H, W]``, one by one: all of them as numbers, in an original's size, may not fit."""
    none: Tensor = widen(logits_Nhw.new_zeros(1, *logits_Nhw.shape[1:]))[:0] > 0
    each: Iterable[Tensor] = (widen(one[None]) > 0 for one in logits_Nhw)
    return torch.cat([none, *each])


def _size(batch: Batch) -> tuple[int, int]:
    height, width = batch.images_BCHW.shape[-2:]
    return height, width
