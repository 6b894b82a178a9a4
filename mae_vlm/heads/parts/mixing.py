"""Pairs of training pictures blended, or one pasted into the other, and their labels with them.

Letters: B pictures, C channels, H, W pixels, L classes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from timm.data.mixup import Mixup
from torch import Tensor
from torch.nn import functional

from mae_vlm.tokens.chance import key_of
from mae_vlm.types import Batch


class Mixing:
    """timm's mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019) between neighbours (0 1)(2 3), as the pair's keys decide.

    Neighbours, unlike timm's first with last, stay together when a batch is dealt to more processes: the step stays the same. A
    pair in which a label is missing is left alone. Pictures become float 0 to 1, labels ``soft_labels_BL``, with ``smoothing``.
    """

    def __init__(self, classes: int, mixup: float, cutmix: float, smoothing: float) -> None:
        self.classes, self.smoothing = classes, smoothing
        self._mix = Mixup(mixup_alpha=mixup, cutmix_alpha=cutmix, label_smoothing=smoothing, num_classes=classes)

    def __call__(self, batch: Batch) -> Batch:
        """The batch with mixed pictures; rows of unknown labels are NaN in ``soft_labels_BL``."""
        scale = {torch.uint8: 255.0, torch.uint16: 65535.0}.get(batch.images_BCHW.dtype, 1.0)
        images_BCHW = batch.images_BCHW.float() / scale
        targets_BL = self._exact(batch.labels_B)
        known, keys = (batch.labels_B >= 0).tolist(), batch.keys_B.tolist()
        before = np.random.get_state()  # timm draws from numpy's own generator, which belongs to the run
        for first in range(0, len(known) - 1, 2):
            pair = slice(first, first + 2)
            if all(known[pair]):
                np.random.seed(key_of(keys[first], keys[first + 1]) & 0xFFFF_FFFF)
                images_BCHW[pair], targets_BL[pair] = self._mix(images_BCHW[pair], batch.labels_B[pair])
        np.random.set_state(before)
        return replace(batch, images_BCHW=images_BCHW, soft_labels_BL=targets_BL)

    def _exact(self, labels_B: Tensor) -> Tensor:
        exact_BL = functional.one_hot(labels_B.clamp(min=0), self.classes).float()
        smooth_BL = exact_BL * (1 - self.smoothing) + self.smoothing / self.classes
        return smooth_BL.masked_fill((labels_B < 0)[:, None], float("nan"))
