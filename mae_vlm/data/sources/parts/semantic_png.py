"""A semantic mask as a grey PNG, both ways: 8 bits as they are, 16 bits with 65535 where nothing is known."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mae_vlm.data.sources.parts.mask_pixels import shown_size

_UNKNOWN = 65535  # what int16's -1 is stored as


def to_png(semantic_HW: Tensor) -> bytes:
    """A PNG of uint8 or int16 class numbers, without loss."""
    pixels_HW = semantic_HW.numpy()
    if pixels_HW.dtype != np.uint8:
        pixels_HW = pixels_HW.astype(np.int32).astype(np.uint16)  # -1 becomes 65535
    buffer = io.BytesIO()
    Image.fromarray(pixels_HW).save(buffer, "PNG")
    return buffer.getvalue()


class SemanticPng:
    """A grey or palette PNG that is decoded when the mask is asked for.

    Args:
        data: the file.
        name: of the sample, for messages.
        image: the picture; the mask must be of its size as it is shown.
    """

    def __init__(self, data: bytes, name: str, image: bytes | Path | Tensor | None = None) -> None:
        self.data, self.name, self._image = data, name, image

    def decode(self, objects: slice = slice(None)) -> Tensor:
        """uint8 ``[H, W]``, or int16 with -1 where nothing is known.

        Raises:
            ValueError: not a PNG, damaged, of several channels, or not of the picture's size.
        """
        try:
            with Image.open(io.BytesIO(self.data), formats=["PNG"]) as image:
                self._check_size(image.height, image.width)
                if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
                    raise ValueError(f"{self.name}: its semantic mask is {image.mode}; write class numbers as one channel")
                pixels_HW = np.array(image)
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{self.name}: its semantic mask cannot be decoded ({str(error).splitlines()[0]})") from None
        if pixels_HW.dtype in (np.uint8, np.bool_):
            return torch.from_numpy(pixels_HW.astype(np.uint8))
        return torch.from_numpy(np.where(pixels_HW == _UNKNOWN, -1, pixels_HW).astype(np.int16))

    def _check_size(self, height: int, width: int) -> None:
        shown = (height, width) if self._image is None else shown_size(self._image, self.name)
        if shown != (height, width):
            raise ValueError(f"{self.name}: a semantic mask of {width} x {height} pixels for a picture of {shown[1]} x {shown[0]}")
