"""Arithmetic of a masked pretraining step, in closed form.

Matrix products only, one multiply-add as two operations, no recomputation: what ``torch.utils.flop_counter`` counts with attention
as plain products (its fused kernels redo the scores backward). A step is thrice its forward pass: each product has two of its size
backward, but for the patch embedding, whose input needs no gradient. Recomputing activations adds work and no arithmetic here.
A pre-norm block of width D on n tokens: 24 n D^2 (qkv 6, projection 2, MLP 16 at ratio 4) + 4 n^2 D (scores and values).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mae_vlm.encoders.image import ImageTower
from mae_vlm.types import TokenSpace


def block(tokens: int, width: int, mlp_ratio: float = 4.0) -> float:
    """Operations of one transformer block, forward."""
    return (8 + 4 * mlp_ratio) * tokens * width**2 + 4 * tokens**2 * width


def linear(layer: nn.Linear, tokens: int) -> int:
    """Operations of a linear layer, forward."""
    return 2 * tokens * layer.in_features * layer.out_features


def blocks(module: nn.Module, tokens: int) -> int:
    """Operations of self-attention and linear layers, all those in ``module``, each over ``tokens`` tokens, forward."""
    count = 0
    for part in module.modules():
        if isinstance(part, nn.Linear):
            count += linear(part, tokens)
        elif isinstance(heads := getattr(part, "num_heads", None), int):  # timm's attention of either family
            count += 4 * tokens**2 * heads * int(part.head_dim)  # type: ignore[arg-type]
        elif isinstance(heads := getattr(part, "num_attention_heads", None), int) and hasattr(part, "query"):  # BERT's
            count += 4 * tokens**2 * heads * int(part.attention_head_size)  # type: ignore[arg-type]
    return count


def products(module: nn.Module, run: Callable[[Tensor], Any], shape: tuple[int, ...]) -> tuple[list[int], Any]:
    """Operations of the convolutions and linear layers of ``module``, in the order in which they run, and what ``run`` of zeros gives.

    In evaluation mode, so that no running mean moves; modes are put back.
    """
    counts: list[int] = []
    layers = [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(partial(_count, counts)) for layer in layers]
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        return counts, run(torch.zeros(shape))
    finally:
        for part, mode in modes:
            part.training = mode
        for hook in hooks:
            hook.remove()


def _count(counts: list[int], layer: nn.Module, given: Any, found: Tensor) -> None:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    counts.append(2 * found.numel() * (weight.numel() // weight.shape[0]))


def encoder_step(encoder: ImageTower, patches: int) -> int:
    """Operations per picture of a training pass, forward and backward, through ``encoder`` on ``patches`` patches of a picture."""
    return 3 * encoder.flops(patches) - encoder.first_flops(patches)


def masked_step(
    space: TokenSpace, visible: int, width: int, depth: int, decoder_width: int, decoder_depth: int, prefix: int = 1, mlp_ratio: float = 4.0
) -> float:
    """Operations per picture of one MAE training step, forward and backward, from sizes alone (before a model is built)."""
    tokens, all_tokens = visible + prefix, space.patches + prefix
    embed = 2 * visible * space.patch_pixels * width
    encoder = depth * block(tokens, width, mlp_ratio)
    decoder = 2 * tokens * width * decoder_width + decoder_depth * block(all_tokens, decoder_width)
    predict = 2 * (space.patches - visible) * decoder_width * space.patch_pixels
    return 3 * (embed + encoder + decoder + predict) - embed
