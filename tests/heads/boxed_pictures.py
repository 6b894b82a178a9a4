"""Pictures of 32 x 48 pixels with boxes, as detectors get them."""

from __future__ import annotations

import torch

from mae_vlm.types import Batch, Frame, Target

SOME = ([[4, 4, 20, 20], [22, 6, 44, 30]], [0, 2])


def target(boxes, classes, crowds=None, frame: Frame | None = None) -> Target:
    boxes_N4 = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    crowds_N = torch.tensor(crowds or [False] * len(classes), dtype=torch.bool)
    return Target(frame or Frame(32, 48, 0, 0, 32, 48, 32, 48), boxes_N4, torch.tensor(classes, dtype=torch.int64), crowds_N)


def a_batch(*targets: Target) -> Batch:
    count = len(targets)
    images = torch.randint(0, 256, (count, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ids = [f"picture {number}" for number in range(count)]
    return Batch(images, torch.arange(count), torch.ones(count, dtype=torch.bool), torch.full((count,), -1), ids, targets=list(targets))
