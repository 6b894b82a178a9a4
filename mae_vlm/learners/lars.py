"""LARS: gradient descent with momentum, at a rate for each weight that goes by its size (You et al. 2017, arXiv 1708.03888)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.optim import Lars as TimmLars
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from mae_vlm.learners.optim import Rule, parameter_groups, scheduled


class Skipping(torch.optim.Optimizer):
    """Leaves weights and momenta as they are where its ``found_inf`` is 1, as torch's fused AdamW does; nothing waits for the device.

    (torch's fused SGD, 2.15, begins with a momentum of uninitialised memory where its first step is such a one.)
    Weights and momenta are held twice during a step: meant for heads, which are small.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        with torch.enable_grad():
            loss = None if closure is None else closure()  # here, for it is this step's gradients that tell
        bad = self.__dict__.pop("found_inf", None)  # which only fused ones may meet
        moving = [weight for group in self.param_groups for weight in group["params"] if weight.grad is not None]
        moving += [self.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight)) for weight in moving]
        before = [] if bad is None else [value.clone() for value in moving]
        super().step()
        for value, old in zip(moving, before, strict=False):
            value.copy_(torch.where(bad > 0, old, value))
        if bad is not None:
            self.found_inf = bad
        return loss


class SkippingLars(Skipping, TimmLars):  # type: ignore[misc]
    """timm's LARS."""


class SkippingSgd(Skipping, torch.optim.SGD):
    """torch's gradient descent."""


class Lars(Rule):
    """timm's LARS with the lr rule of the MAE paper: ``base_lr * images per optimizer step / 256``. What linear probes are trained by.

    Args:
        base_lr: at 256 images per optimizer step. The paper's probe takes 0.1, which is 6.4 at its 16,384 images.
        momentum: of the gradients, the paper's 0.9.
        weight_decay: not applied to biases and norms, and 0 in the paper.
        trust: how much of its own norm a matrix may move in a step at a rate of 1; biases move at the rate itself. None for all of them:
            plain gradient descent with momentum, as where several rates are trained side by side (DINOv2's protocol).
        warmup: share of the run's steps over which the rate rises linearly.
        floor: the rate at the end, as a share of the peak.

    Raises:
        ValueError: a rate, decay or share out of its range.
    """

    def __init__(
        self,
        base_lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float | None = 1e-3,
        warmup: float = 0.1,
        floor: float = 0.0,
    ) -> None:
        if base_lr < 0 or weight_decay < 0 or not 0 <= momentum < 1:
            raise ValueError(f"base_lr {base_lr} and weight_decay {weight_decay} must be 0 or more, momentum {momentum} in [0, 1)")
        if not (0 <= warmup < 1 and 0 <= floor <= 1):
            raise ValueError(f"warmup {warmup} must be in [0, 1), floor {floor} in [0, 1]")
        if trust is not None and trust <= 0:
            raise ValueError(f"trust {trust} given, allowed is more than 0, as 0.001, or null for gradient descent with momentum")
        self.base_lr, self.momentum, self.weight_decay, self.trust = base_lr, momentum, weight_decay, trust
        self.warmup, self.floor = warmup, floor

    def build(self, module: nn.Module, images_per_step: int, steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
        rate = self.base_lr * images_per_step / 256
        groups = parameter_groups(module, self.weight_decay)
        for group in groups:
            group["lr"] = rate * group["lr_scale"]
            group["always_adapt"] = any(one.ndim > 1 for one in group["params"])  # biases are in groups of their own
        optimizer: torch.optim.Optimizer
        if self.trust is None:
            for group in groups:
                del group["always_adapt"]
            optimizer = SkippingSgd(groups, lr=rate, momentum=self.momentum)
        else:
            lars: Any = SkippingLars  # timm is not typed
            optimizer = lars(groups, lr=rate, momentum=self.momentum, trust_coeff=self.trust)
        return optimizer, scheduled(optimizer, steps, self.warmup, self.floor)
