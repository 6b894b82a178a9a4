"""Fewer pixels, and JPEG.

Letters: B pictures, C channels, H, W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.io import decode_jpeg, encode_jpeg


def pixelate(images_BCHW: Tensor, keys_B: Tensor, factor: float) -> Tensor:
    """Shrunk ``factor`` times by averaging, and grown again as squares."""
    height, width = images_BCHW.shape[-2:]
    small = functional.interpolate(images_BCHW, (max(1, round(height / factor)), max(1, round(width / factor))), mode="area")
    return functional.interpolate(small, (height, width), mode="nearest-exact")


def jpeg(images_BCHW: Tensor, keys_B: Tensor, quality: float) -> Tensor:
    """Written as JPEG of this quality (1 to 100), in 8 bits, and read again; other than one or three channels each alone."""
    kept = images_BCHW.shape[1] in (1, 3)
    whole = (images_BCHW.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    pictures = whole if kept else whole.flatten(0, 1)[:, None]
    read = torch.stack([decode_jpeg(encode_jpeg(picture_CHW, int(quality))) for picture_CHW in pictures])
    return (read.reshape(whole.shape).float() / 255).to(images_BCHW.device)
