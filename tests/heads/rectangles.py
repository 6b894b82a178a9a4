"""Pictures of rectangles with all that is known about them, and a small mask head. Shared by the tests of masks."""

from __future__ import annotations

import torch

from mae_vlm.data.framing import Fit
from mae_vlm.data.targets import target_of
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.heads.masks import Masks
from mae_vlm.types import Answer, Batch, Sample

SIZE, QUERIES, CLASSES = 32, 6, 3
TASKS = ["semantic", "instance", "panoptic"]


def a_head(task: str = "instance", **more) -> tuple[Towers, Masks]:
    torch.manual_seed(0)
    towers = Towers(Vit(width=32, depth=4, heads=4, patch=8, image_size=SIZE))
    return towers, Masks(towers, classes=CLASSES, task=task, **{"queries": QUERIES, "points": 64} | more)


def a_sample(count: int, height: int = 24, width: int = 48, crowds: tuple[int, ...] = ()) -> Sample:
    """Rectangles side by side over the upper two thirds, classes in turn, as a picture of that size; the rest is unknown or class 2."""
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    step = width // max(count, 1)
    for number in range(count):
        masks[number, : height * 2 // 3, number * step : (number + 1) * step] = True
    classes = torch.arange(count) % 2
    semantic = torch.full((height, width), 2, dtype=torch.uint8)
    for mask, number in zip(masks, classes, strict=True):
        semantic[mask] = number
    boxes = torch.tensor([[n * step, 0.0, (n + 1) * step, height * 2 // 3] for n in range(count)]).view(-1, 4)
    flags = torch.tensor([number in crowds for number in range(count)], dtype=torch.bool)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))
    return Sample("picture", image, boxes=boxes, classes=classes, masks=masks, crowds=flags, semantic=semantic)


def a_batch(samples: list[Sample]) -> Batch:
    plans = [Fit((SIZE, SIZE)).plan(*sample.image.shape[1:]) for sample in samples]
    sizes = [sample.image.shape[1:] for sample in samples]
    wants = frozenset({"masks", "semantic"})
    targets = [target_of(sample, plan, *size, wants) for sample, plan, size in zip(samples, plans, sizes, strict=True)]
    count = len(samples)
    images = torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ids = [f"picture {number}" for number in range(count)]
    return Batch(images, torch.arange(count), torch.ones(count, dtype=torch.bool), torch.full((count,), -1), ids, targets=targets)


def the_truth(head: Masks, batch: Batch) -> Answer:
    """The answer that is right in every pixel."""
    classes = torch.full((len(batch), head.queries_count, CLASSES + 1), -20.0)
    masks = torch.full((len(batch), head.queries_count, SIZE, SIZE), -20.0)
    classes[..., -1] = 20.0
    for index, truth in enumerate(head._truths(batch)):
        for query, (mask, number) in enumerate(zip(truth.masks, truth.classes, strict=True)):
            classes[index, query, -1], classes[index, query, number] = -20.0, 20.0
            masks[index, query] = torch.where(mask, 20.0, -20.0)
    return Answer({"classes": classes, "masks": masks})
