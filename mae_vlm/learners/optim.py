"""The optimizer and its parameter groups."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from timm.models import group_parameters
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from mae_vlm.learners.schedule import warmup_cosine

TOKENS = ("cls_token", "reg_token", "mask_token", "pos_embed", "rope.freqs")  # never decayed, nor anything with fewer than two dimensions


class Rule(ABC):
    """How weights move: what a learner asks for its optimizer. The class path in the config names one.

    Attributes:
        layer_decay: factor of the rate from each layer of an encoder to the one below it; None: all learn at the same rate.
    """

    layer_decay: float | None = None

    @abstractmethod
    def build(self, module: nn.Module, images_per_step: int, steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """Optimizer over the trainable weights of ``module`` and its schedule; ``steps`` is the run's length, 0 when unknown."""


class AdamW(Rule):
    """AdamW with the lr rule of the MAE paper: ``base_lr * images per optimizer step / 256``.

    Args:
        base_lr: at 256 images per optimizer step (accumulation and processes counted). The paper's 1.5e-4 is for 10^5
            steps and more at batch 4096; None takes the default measured for runs of this length, see :func:`default_base_lr`.
        betas: the paper's .9 and .95.
        weight_decay: not applied to biases, norms, positions and tokens.
        warmup: share of the run's steps over which the rate rises linearly.
        floor: the rate at the end, as a share of the peak.
        layer_decay: factor of the rate from each layer of an encoder to the one below it, for fine-tuning: a block k of n learns at
            ``layer_decay ** (n + 1 - k)`` of the rate (the patch embedding is block 0), what stands on the encoder at the whole rate.

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
        layer_decay: float | None = None,
    ) -> None:
        if base_lr is not None and base_lr < 0:
            raise ValueError(f"base_lr {base_lr} given, allowed is 0 or more")
        if not (0 <= warmup < 1 and 0 <= floor <= 1 and weight_decay >= 0):
            raise ValueError(f"warmup {warmup} must be in [0, 1), floor {floor} in [0, 1], weight_decay {weight_decay} 0 or more")
        if layer_decay is not None and not 0 < layer_decay <= 1:
            raise ValueError(f"layer_decay {layer_decay} given, allowed is more than 0 and at most 1, as 0.75")
        self.layer_decay = layer_decay
        self.base_lr, self.betas, self.weight_decay, self.warmup, self.floor = base_lr, betas, weight_decay, warmup, floor

    def build(self, module: nn.Module, images_per_step: int, steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
        base_lr = default_base_lr(steps) if self.base_lr is None else self.base_lr
        rate = base_lr * images_per_step / 256
        groups = parameter_groups(module, self.weight_decay, self.layer_decay)
        for group in groups:
            group["lr"] = rate * group["lr_scale"]
        device = next(module.parameters()).device.type
        optimizer = torch.optim.AdamW(groups, lr=rate, betas=self.betas, fused=device in ("cpu", "cuda"))
        # torch lets a fused step unscale gradients itself, and Lightning then refuses to clip, even in bf16 where nothing is scaled
        optimizer._step_supports_amp_scaling = False
        return optimizer, scheduled(optimizer, steps, self.warmup, self.floor)


def scheduled(optimizer: torch.optim.Optimizer, steps: int, warmup: float, floor: float) -> LambdaLR:
    """Up over the share ``warmup`` of the run's ``steps``, then down to ``floor`` of the peak."""
    first = round(warmup * steps)
    return LambdaLR(optimizer, lambda step: warmup_cosine(step, steps, first, floor))


def parameter_groups(module: nn.Module, weight_decay: float, layer_decay: float | None = None) -> list[dict[str, Any]]:
    """Every trainable weight once: matrices with decay, everything else (biases, norms, positions, tokens) without.

    With ``layer_decay`` there are two such groups for each layer, the uppermost first; ``lr_scale`` is its share of the rate. A part with
    an ``lr_scale`` of its own (a factor) learns at that, as the layers do that are trained side by side at several rates.
    """
    scales = {} if layer_decay is None else _layer_scales(module, layer_decay)
    for prefix, part in module.named_modules():
        own = getattr(part, "lr_scale", None)
        if isinstance(own, float):
            scales |= {f"{prefix}.{name}": own for name, _ in part.named_parameters()}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, False): [], (1.0, True): []}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            spared = parameter.ndim < 2 or name.endswith(TOKENS)
            groups.setdefault((scales.get(name, 1.0), spared), []).append(parameter)
    ordered = sorted(groups.items(), key=lambda item: (-item[0][0], item[0][1]))
    return [{"params": held, "weight_decay": 0.0 if spared else weight_decay, "lr_scale": scale} for (scale, spared), held in ordered]


def _layer_scales(module: nn.Module, layer_decay: float) -> dict[str, float]:
    """Shares of the rate by name, for the weights of every timm encoder in ``module``, by timm's own grouping into layers."""
    scales: dict[str, float] = {}
    for prefix, encoder in module.named_modules():
        if hasattr(encoder, "group_matcher"):
            layers = group_parameters(encoder, encoder.group_matcher(coarse=False), reverse=True)
            top = len(encoder.blocks) + 1 if hasattr(encoder, "pos_embed") else max(layers.values(), default=0)  # of a ViT, or of a CNN
            scales |= {f"{prefix}.{name}": layer_decay ** (top - layer) for name, layer in layers.items()}
    return scales


def groups_in_words(groups: list[dict[str, Any]]) -> list[str]:
    """A line for each parameter group that holds any: its share of the rate, decay, and how many weights."""
    rows = [(group["lr_scale"], group["weight_decay"], sum(one.numel() for one in group["params"])) for group in groups]
    return [f"  rate x {scale:<8.4g} weight decay {decay:<6.4g} {count:>12,} weights" for scale, decay, count in rows if count]


def default_finetuning_lr(pretrained: bool) -> float:
    """Base rate of a full fine-tuning: the MAE paper's 5e-4 from its weights, where layers learn at decaying rates; 1e-3 from scratch."""
    return 5e-4 if pretrained else 1e-3


def default_base_lr(steps: int) -> float:
    """1.5e-3 for runs up to 10,000 steps, the paper's 1.5e-4 from 100,000 on, in between by the power law that joins them."""
    if steps <= 0:
        return 1.5e-4
    return float(min(1.5e-3, max(1.5e-4, 1.5e-3 * 10_000 / steps)))
