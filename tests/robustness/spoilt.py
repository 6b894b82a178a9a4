"""Pictures to spoil, and a small classifier that has learned something. Shared by the tests of this folder."""

from __future__ import annotations

from functools import partial

import torch
from torch.nn import functional

from mae_vlm.encoders.vit import Vit
from mae_vlm.heads.classify import Classify
from mae_vlm.learners.finetune import Finetuner
from mae_vlm.learners.optim import AdamW
from mae_vlm.types import Batch

KEYS = torch.tensor([11, 22, 33, 44])


def pictures(size: int = 32, channels: int = 3) -> torch.Tensor:
    """Four uint8 pictures of soft colours with sharp squares in them."""
    chance = torch.Generator().manual_seed(0)
    soft = torch.rand(4, channels, 5, 5, generator=chance)
    images = functional.interpolate(soft, (size, size), mode="bicubic", align_corners=True).clamp(0, 1)
    for number in range(4):
        place, side = 3 + 2 * number, size // 4
        images[number, :, place : place + side, place : place + side] = torch.rand(channels, 1, 1, generator=chance)
    return (images * 255).round().to(torch.uint8)


def labelled(count: int = 32, seed: int = 0) -> Batch:
    """Noise of 16 x 16 pixels, a little brighter left (class 0) or right (class 1)."""
    chance = torch.Generator().manual_seed(seed)
    labels_B = torch.arange(count) % 2
    images = torch.randint(70, 170, (count, 3, 16, 16), generator=chance)
    images[labels_B == 0, :, :, :8] += 20
    images[labels_B == 1, :, :, 8:] += 20
    ids = [f"picture {number}" for number in range(count)]
    return Batch(images.to(torch.uint8), torch.arange(count) + 1000 * seed, torch.ones(count, dtype=torch.bool), labels_B, ids)


def learner(steps: int = 0, **more) -> Finetuner:
    """A tiny model, trained for some steps to tell left from right."""
    torch.manual_seed(0)
    encoder = Vit(width=32, depth=2, heads=2, patch=4, image_size=16, drop_path=0.1)
    model = Finetuner(encoder, {"classify": partial(Classify, **{"classes": 2, "dropout": 0.2, **more})}, AdamW())
    torch.nn.init.normal_(model.heads["classify"].linear.weight, std=0.1)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=2e-3)
    for step in range(steps):
        batch = labelled(64, step + 1)
        head = model.heads["classify"]
        optimizer.zero_grad()
        head.loss(head(model.features(batch)), batch).value.backward()
        optimizer.step()
    return model
