"""Pictures changed by at most a few grey levels so that a head's own loss grows: projected gradient descent.

Letters: B pictures, C channels, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from mae_vlm.heads.base import Head
from mae_vlm.learners.finetune import Finetuner
from mae_vlm.robustness.family import Family, chance_like, unit
from mae_vlm.types import Batch

STEPS = 5
_STRIDE = 2.5  # radii that all steps together may go: enough to reach the edge from anywhere within, and to move along it
_LEVEL = 1 / 255  # one grey level of an 8-bit picture
RADII = tuple(levels * _LEVEL for levels in (1, 2, 4, 6, 8))


def pgd(loss: Callable[[Tensor], Tensor], images_BCHW: Tensor, keys_B: Tensor, radius: float, steps: int = STEPS) -> Tensor:
    """Pictures within ``radius`` of each number, and within [0, 1], for which the loss is higher (Madry et al. 2018, arXiv 1706.06083).

    Starts at a random place within and goes along the sign of the gradient. Weights get no gradient.

    Args:
        loss: of float pictures in [0, 1] a scalar, the higher the worse.
        images_BCHW: float pictures in [0, 1].
        keys_B: decide where it starts.
        radius: largest change of a number.
        steps: how often it asks for a gradient.
    """
    low, high = (images_BCHW - radius).clamp(min=0), (images_BCHW + radius).clamp(max=1)
    here = (images_BCHW + radius * (2 * chance_like(images_BCHW, keys_B) - 1)).clamp(low, high)
    for _ in range(steps):
        start = here.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(loss(start), start)
        here = (start.detach() + _STRIDE * radius / steps * gradient.sign()).clamp(low, high)
    return here


def random_signs(images_BCHW: Tensor, keys_B: Tensor, radius: float) -> Tensor:
    """Every number up or down by ``radius``, by chance: what a change of the attack's size does without the attack."""
    return images_BCHW + radius * (2 * (chance_like(images_BCHW, keys_B) < 0.5).to(images_BCHW.dtype) - 1)


CONTROL = Family("random_signs", "attack", "change of each number, of the range", RADII, random_signs)
ATTACK = Family("pgd", "attack", "largest change of a number, of the range", RADII, lambda *given: given[0])  # see attacked


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """While it lasts the model is in evaluation mode and no weight collects gradients; afterwards it, and torch's chance, are as before."""
    training = {module: module.training for module in model.modules()}
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        try:
            model.eval()
            for weight in learning:
                weight.requires_grad_(False)
            yield
        finally:
            for weight in learning:
                weight.requires_grad_(True)
            for module, mode in training.items():
                module.training = mode


def attacked(learner: Finetuner, head: Head, batch: Batch, keys_B: Tensor, radius: float) -> Tensor:
    """The pictures of a batch, as float in [0, 1], changed against one head; what the others say of them is not asked."""

    def loss(images_BCHW: Tensor) -> Tensor:
        seen = replace(batch, images_BCHW=images_BCHW)
        return head.loss(head(learner.features(seen)), seen).value

    with at_rest(learner):
        return pgd(loss, unit(batch.images_BCHW), keys_B, radius)
