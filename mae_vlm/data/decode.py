"""Encoded picture files to pixels: the header is read and judged first, then every mode becomes channels of 8 or 16 bits.

Grey and RGB JPEGs go through simplejpeg, TIFFs of many bands or of any size through rasterio, everything else through Pillow.
Conventions: transparency is laid over white, 16-bit values are divided by 257 for 8, animations give their first frame,
EXIF orientation is applied.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor

from mae_vlm.data.form import Form, formed, to_channels, to_depth
from mae_vlm.data.header import Header, header
from mae_vlm.data.modes import read_modes
from mae_vlm.data.picture import MAX_PIXELS, Picture


def decode(
    data: bytes | Path,
    channels: int | None = 3,
    name: str = "picture",
    max_pixels: int = MAX_PIXELS,
    bits: int = 8,
    value_range: tuple[float, float] | None = None,
) -> Tensor:
    """Pixels of a whole encoded picture: uint8 (or uint16 for 16 bits) ``[C, H, W]``, C as in ``channels`` or the file's own where None.

    Raises:
        ValueError: not a picture, damaged, truncated, of floating point numbers without a ``value_range``, or over ``max_pixels``
            (checked before any pixel is decoded); the message names ``name``.
    """
    return Picture(data, Form(channels, bits, value_range), name, max_pixels).pixels()


def from_pil(image: Image.Image, channels: int, name: str = "picture") -> Tensor:
    """uint8 ``[channels, H, W]`` (1 or 3) of a PIL picture of any mode, as :func:`decode` reads its file.

    Raises:
        ValueError: floating point numbers without a known range, or damaged data.
    """
    upright = ImageOps.exif_transpose(image)
    values_HWC = to_depth(read_modes(upright, (0, 0, *upright.size), channels, name), Form(channels), name)
    return to_channels(torch.from_numpy(values_HWC).permute(2, 0, 1), channels)


__all__ = ["MAX_PIXELS", "Form", "Header", "Picture", "decode", "formed", "from_pil", "header", "to_channels"]
