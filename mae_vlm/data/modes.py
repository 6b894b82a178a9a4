"""Pillow's modes to arrays of channels: every mode that a file can have, grey or colour, with transparency laid over white."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.io import ImageReadMode, decode_png

_TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")


def read_modes(image: Image.Image, box: tuple[int, int, int, int], channels: int | None, name: str) -> NDArray[Any]:
    """Values ``[H, W, C]`` of the part ``box`` (left, top, right, bottom): C is 1 for greys, 3 for colours, 4 where RGBA is asked for.

    Raises:
        ValueError: damaged or cut short; the message names ``name``.
    """
    try:
        image.seek(0)  # an animation's first frame
        cut = image if box == (0, 0, *image.size) else _cropped(image, box)
        values = np.array(_plain(cut, channels))  # a copy, because torch wants to write
    except Exception as error:  # damaged data: OSError, SyntaxError, struct.error, zlib.error ...
        raise ValueError(f"{name}: damaged or cut short ({type(error).__name__}: {error}); remove it or replace it") from None
    return values[..., None] if values.ndim == 2 else values


def read_deep_png(data: bytes, name: str) -> NDArray[Any]:
    """uint16 ``[H, W, 1 or 3]`` of a PNG with 16-bit colour or transparency, which Pillow would cut to 8 bits.

    Raises:
        ValueError: damaged or cut short.
    """
    try:
        pixels = decode_png(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.UNCHANGED)
    except RuntimeError as error:
        raise ValueError(f"{name}: damaged or cut short ({str(error).splitlines()[0]}); remove it or replace it") from None
    values = pixels.permute(1, 2, 0).numpy()
    return over_white(values) if values.shape[2] in (2, 4) else values


def over_white(values_HWC: NDArray[Any]) -> NDArray[Any]:
    """Unsigned values whose last channel is opacity, laid over white: one channel less."""
    full = np.iinfo(values_HWC.dtype).max
    opacity = values_HWC[..., -1:].astype(np.float32) / full
    laid = values_HWC[..., :-1] * opacity + full * (1 - opacity)
    return np.rint(laid).astype(values_HWC.dtype)


def _cropped(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    cut = image.crop(box)
    cut.info = image.info  # holds the transparency of palettes
    return cut


def _plain(image: Image.Image, channels: int | None) -> Image.Image:
    """The picture in a mode that is an array of channels: opaque, 8 bits or as many as the file has."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return image
    if channels == 4 and image.mode in ("RGBA", "CMYK", "RGBX"):
        return image
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        grey = image.mode in ("LA", "La", "L", "1")
        layer = image.convert("RGBA")
        laid = Image.alpha_composite(Image.new("RGBA", layer.size, (255, 255, 255, 255)), layer)
        return laid.convert("RGB").convert("L") if grey else laid.convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
