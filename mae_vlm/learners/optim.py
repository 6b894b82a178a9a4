"""The optimizer and its parameter groups."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from mae_vlm.learners.schedule import warmup_cosine

TOKENS = ("cls_token", "reg_token", "mask_token", "pos_embed", "rope.freqs")  # never decayed, nor anything with fewer than two dimensions


class AdamW:
    """AdamW with the lr rule of the MAE paper: ``base_lr * images per optimizer step / 256``.

    Args:
        base_lr: at 256 images per optimizer step (accumulation and processes counted). The paper's 1.5e-4 is for 10^5
            steps and more at batch 4096; None takes the default measured for runs of this length, see :func:`default_base_lr`.
        betas: the paper's .9 and .95.
        weight_decay: not applied to biases, norms, positions and tokens.
        warmup: share of the run's steps over which the rate rises linearly.
        floor: the rate at the end, as a share of the peak.

    Raises:
        ValueError: a rate, decay or share out of its range.
    """

    def __init__(
        self,
        base_lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.05,
        warmup: float = 0.1,
        floor: float = 0.0,
    ) -> None:
        if base_lr is not None and base_lr < 0:
            raise ValueError(f"base_lr {base_lr} given, allowed is 0 or more")
        if not (0 <= warmup < 1 and 0 <= floor <= 1 and weight_decay >= 0):
            raise ValueError(f"warmup {warmup} must be in [0, 1), floor {floor} in [0, 1], weight_decay {weight_decay} 0 or more")
        self.base_lr, self.betas, self.weight_decay, self.warmup, self.floor = base_lr, betas, weight_decay, warmup, floor

    def build(self, module: nn.Module, images_per_step: int, steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """Optimizer over the trainable weights of ``module`` and its schedule; ``steps`` is the run's length, 0 when unknown."""
        base_lr = default_base_lr(steps) if self.base_lr is None else self.base_lr
        rate = base_lr * images_per_step / 256
        groups = parameter_groups(module, self.weight_decay)
        device = next(module.parameters()).device.type
        optimizer = torch.optim.AdamW(groups, lr=rate, betas=self.betas, fused=device in ("cpu", "cuda"))
        # torch lets a fused step unscale gradients itself, and Lightning then refuses to clip, even in bf16 where nothing is scaled
        optimizer._step_supports_amp_scaling = False
        warmup = round(self.warmup * steps)
        return optimizer, LambdaLR(optimizer, lambda step: warmup_cosine(step, steps, warmup, self.floor))


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Every trainable weight once: matrices with decay, everything else (biases, norms, positions, tokens) without."""
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            (spared if parameter.ndim < 2 or name.endswith(TOKENS) else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]


def default_base_lr(steps: int) -> float:
    """1.5e-3 for runs up to 10,000 steps, the paper's 1.5e-4 from 100,000 on, in between by the power law that joins them."""
    if steps <= 0:
        return 1.5e-4
    return float(min(1.5e-3, max(1.5e-4, 1.5e-3 * 10_000 / steps)))
