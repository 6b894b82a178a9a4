"""Arithmetic of a masked pretraining step, in closed form.

Matrix products only, one multiply-add as two operations, no recomputation: what ``torch.utils.flop_counter`` counts.
A pre-norm block of width D on n tokens: 24 n D^2 (qkv 6, projection 2, MLP 16 at ratio 4) + 4 n^2 D (scores and values).
"""

from __future__ import annotations

from mae_vlm.types import TokenSpace


def block(tokens: int, width: int, mlp_ratio: float = 4.0) -> float:
    """Operations of one transformer block, forward."""
    return (8 + 4 * mlp_ratio) * tokens * width**2 + 4 * tokens**2 * width


def masked_step(
    space: TokenSpace, visible: int, width: int, depth: int, decoder_width: int, decoder_depth: int, prefix: int = 1, mlp_ratio: float = 4.0
) -> float:
    """Operations per picture of one MAE training step, forward and backward (thrice forward, less the gradient of the pixels)."""
    tokens, all_tokens = visible + prefix, space.patches + prefix
    embed = 2 * visible * space.patch_pixels * width
    encoder = depth * block(tokens, width, mlp_ratio)
    decoder = 2 * tokens * width * decoder_width + decoder_depth * block(all_tokens, decoder_width)
    predict = 2 * (space.patches - visible) * decoder_width * space.patch_pixels
    return 3 * (embed + encoder + decoder + predict) - embed
