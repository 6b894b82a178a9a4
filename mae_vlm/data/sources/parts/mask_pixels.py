"""Masks that stand in picture files, one number per pixel: read and judged only when somebody decodes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mae_vlm.data.header import FORMATS, header
from mae_vlm.data.sources.parts.files import check_regular


@dataclass(frozen=True)
class ObjectPixels:
    """``Deferred`` masks of objects: object ``n`` is where the picture ``file`` has the number ``marks_N[n]``.

    With ``complete``, an object without a single pixel is an error.
    """

    id: str
    image: bytes | Path | Tensor
    file: Path
    marks_N: NDArray[np.int64]
    complete: bool = False

    def decode(self, objects: slice = slice(None)) -> Tensor:
        """Bool ``[objects, H, W]``; ValueError where the file is damaged, of another size, or lacks an object."""
        marks_N = self.marks_N[objects]
        numbers_HW = read_numbers(self.file, self.id, shown_size(self.image, self.id))
        masks = torch.from_numpy(numbers_HW[None] == marks_N[:, None, None])
        if self.complete:
            there_N = masks.flatten(1).any(1)
            if not there_N.all():
                lost = int(marks_N[int((~there_N).nonzero()[0])])
                raise ValueError(f"{self.id}: segment {lost} has no pixel in {self.file.name}; correct the annotation")
        return masks


@dataclass(frozen=True)
class ClassPixels:
    """``Deferred`` class numbers: ``marks_K[k]`` in ``file`` stands for class ``numbers_K[k]``, others are unlabelled."""

    id: str
    image: bytes | Path | Tensor
    file: Path
    marks_K: NDArray[np.int64]
    numbers_K: NDArray[np.int64]
    classes: int

    def decode(self, objects: slice = slice(None)) -> Tensor:
        """As ``Sample.semantic``; ValueError where the file is damaged or of another size."""
        pixels_HW = read_numbers(self.file, self.id, shown_size(self.image, self.id))
        nothing, kind = unlabelled(self.classes)
        order_K = np.argsort(self.marks_K)
        marks_K, numbers_K = self.marks_K[order_K], self.numbers_K[order_K]
        if not len(marks_K):
            return torch.from_numpy(np.full(pixels_HW.shape, nothing, kind))
        place_HW = np.searchsorted(marks_K, pixels_HW).clip(max=len(marks_K) - 1)
        found_HW = np.where(marks_K[place_HW] == pixels_HW, numbers_K[place_HW], nothing)
        return torch.from_numpy(found_HW.astype(kind))


def unlabelled(classes: int) -> tuple[int, type[np.uint8 | np.int16]]:
    """The number of unlabelled pixels and the type of ``Sample.semantic`` with so many classes: 255 in uint8, or -1 in int16."""
    return (255, np.uint8) if classes <= 255 else (-1, np.int16)


def read_numbers(file: Path, id: str, size: tuple[int, int] | None = None, colours: bool = True) -> NDArray[np.int64]:
    """The numbers in a mask file ``[H, W]``: grey values of 1 to 16 bits, palette indices, or with ``colours`` R + 256 G + 65536 B.

    Raises:
        ValueError: the file is gone, damaged, of another kind, or not of ``size`` (height, width); the message names ``id``.
    """
    try:
        check_regular(file)
        with Image.open(file, formats=FORMATS) as image:
            if size is not None and image.size != (size[1], size[0]):
                raise ValueError(f"{id}: mask is {image.width} x {image.height}, picture {size[1]} x {size[0]}; correct {file}")
            kinds = ("1", "L", "P", "RGB", "RGBA") if colours else ("1", "L", "P")
            if image.mode not in kinds and not image.mode.startswith("I"):
                raise ValueError(f"{id}: mask {file} is a picture of mode {image.mode}; write class numbers as 8- or 16-bit grey PNG")
            pixels = np.asarray(image)
    except ValueError as error:
        raise error if str(error).startswith(id) else ValueError(f"{id}: mask {file} cannot be read ({error}); replace it") from None
    except Exception as error:  # Pillow's plugins raise what they like on damaged files
        raise ValueError(f"{id}: mask {file} cannot be read ({type(error).__name__}: {error}); replace it") from None
    if pixels.ndim == 2:
        return pixels.astype(np.int64)
    red_HW, green_HW, blue_HW = np.moveaxis(pixels[..., :3].astype(np.int64), 2, 0)
    numbers_HW: NDArray[np.int64] = red_HW + (green_HW << 8) + (blue_HW << 16)
    return numbers_HW


def shown_size(image: bytes | Path | Tensor, id: str) -> tuple[int, int]:
    """(height, width) of a picture as it is shown, from its header.

    Raises:
        ValueError: not a picture; the message names ``id``.
    """
    if isinstance(image, Tensor):
        return image.shape[-2], image.shape[-1]
    found = header(image, id)
    return found.height, found.width
