"""The file and the pixels of a sample, whatever a source gives: bytes, the path of a large TIFF, or pixels."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor

from mae_vlm.data.decode import MAX_PIXELS, Form, Picture, header
from mae_vlm.data.transforms import Crop, Window
from mae_vlm.types import Sample


def picture(sample: Sample, value_range: tuple[float, float] | None = None) -> Picture:
    """The picture with its own channels and its own 8 or 16 bits, only its header read.

    Raises:
        ValueError: not a picture, or of too many pixels; the message names the sample.
    """
    if isinstance(sample.image, Tensor):
        return Picture(sample.image, Form(None, 8 if sample.image.dtype == torch.uint8 else 16), sample.id)
    bits = 16 if header(sample.image, sample.id).bits > 8 else 8
    return Picture(sample.image, Form(None, bits, value_range), sample.id)


def pixels(found: Picture) -> Tensor:
    """``[C, H, W]``, uint8 or uint16, as shown; a TIFF of more pixels than fit is read at a smaller scale.

    Raises:
        ValueError: it cannot be decoded; the message names the sample.
    """
    if found.height * found.width <= MAX_PIXELS:
        return found.pixels()
    scale = (MAX_PIXELS / 8 / (found.height * found.width)) ** 0.5
    return shrunk(found, max(1, round(found.height * scale)), max(1, round(found.width * scale)))


def shrunk(found: Picture, height: int, width: int) -> Tensor:
    """The whole picture at another size, decoded no finer than that needs."""
    return found.crop(Crop(Window(0, 0, found.height, found.width), height, width))


def encoded(sample: Sample) -> bytes:
    """The file as it is; of a picture that was never a file, its pixels."""
    if isinstance(sample.image, Tensor):
        return sample.image.numpy().tobytes()
    return sample.image.read_bytes() if isinstance(sample.image, Path) else sample.image


def digest(sample: Sample) -> int:
    """64 bits of the file's bytes."""
    return int.from_bytes(blake2b(encoded(sample), digest_size=8).digest(), "little")


def file_bytes(sample: Sample) -> int:
    """Size of the file; 0 where there is none."""
    if isinstance(sample.image, Tensor):
        return 0
    return sample.image.stat().st_size if isinstance(sample.image, Path) else len(sample.image)
