"""Weights of three-channel pictures in an encoder of any number of channels."""

from __future__ import annotations

from timm.models import adapt_input_conv
from torch import Tensor

_KERNEL = "vit.patch_embed.proj.weight"


def adapted(weights: dict[str, Tensor], channels: int) -> tuple[dict[str, Tensor], str]:
    """The same for pictures of so many ``channels``, and what was done in words (empty where they have as many).

    As timm does it: the kernels of the channels are repeated in turn and scaled so that their sum keeps its size; for one channel summed.
    """
    kernel_DCpp = weights.get(_KERNEL)
    stemmed = any(name.startswith("vit.patch_embed.backbone.") for name in weights)  # that kernel takes a convolutional stem's channels
    if kernel_DCpp is None or kernel_DCpp.shape[1] == channels or stemmed:
        return weights, ""
    there = kernel_DCpp.shape[1]
    made = {_KERNEL: adapt_input_conv(channels, kernel_DCpp, base_chans=there)}
    return weights | made, f"patch embedding of {there} channels made one of {channels} (timm's way)"
