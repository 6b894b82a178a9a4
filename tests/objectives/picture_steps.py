"""Two steps of pretraining by hand, in float64, of what paints, and of what looks at decoded pictures: on any number of processes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from captioned import a_batch, a_text, an_image, stirred
from word_steps import accumulated

from mae_vlm.learners.optim import AdamW
from mae_vlm.learners.pretrain import Pretrainer
from mae_vlm.objectives.completion import Completion
from mae_vlm.objectives.parts.adversarial import Adversarial
from mae_vlm.objectives.parts.perceptual import Perceptual
from mae_vlm.objectives.pixels import Pixels
from mae_vlm.tokens.masking import RandomMask

PIXELS = partial(Pixels, width=16, depth=1, heads=2)
OBJECTIVES = {
    "completion": partial(Completion, width=16, depth=1, heads=2, codes=12, settle=5),
    "perceptual": partial(PIXELS, perceptual=partial(Perceptual, weight=0.5)),
    "hinge": partial(PIXELS, adversarial=partial(Adversarial, weight=0.5, width=4, ramp=4)),
    "non_saturating": partial(PIXELS, adversarial=partial(Adversarial, weight=0.5, loss="non_saturating", width=4, ramp=4)),
}


def learner(name: str) -> Pretrainer:
    """With the towers that it needs, their weights random, of some size and the same every time."""
    torch.manual_seed(0)
    text, teacher = (a_text() if name == "completion" else None), (0.9 if name == "perceptual" else None)
    masking, optimizer = RandomMask(0.75), AdamW(base_lr=1e-3)
    return stirred(Pretrainer(an_image(), masking, {name: OBJECTIVES[name]}, optimizer, text, teacher=teacher).double()).train()


def steps(name: str, accumulation: int = 1, captions=None) -> dict[str, np.ndarray]:
    """Loss and gradients of a second step, and what the objective keeps; each process has its share of the pictures."""
    processes, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    whole, model = a_batch(captions), learner(name)
    size = len(whole) // (processes * accumulation)
    starts = range(rank * accumulation * size, (rank + 1) * accumulation * size, size)
    for number in range(2):
        now = replace(whole, keys_B=whole.keys_B + 1000 * number)
        model.zero_grad()
        total = accumulated(model, [now[start : start + size] for start in starts], accumulation)
        if number == 0:
            model.objectives[name].after_step()
    found = {"loss": total} | {one: weight.grad for one, weight in model.named_parameters() if weight.requires_grad}
    if processes > 1:
        for value in found.values():
            dist.all_reduce(value)
            value /= processes
    model.objectives[name].after_step()
    kept = dict(model.objectives.named_buffers())
    return {one: value.detach().numpy() for one, value in (found | kept).items()}


def all_steps(names: list[str]) -> list[dict[str, np.ndarray]]:
    return [steps(name) for name in names]
