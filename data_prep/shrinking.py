"""A sample at a smaller size: the picture is encoded again, boxes, masks and semantic maps go along."""

from __future__ import annotations

import io
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from data_prep.pixels import picture, pixels, shrunk
from mae_vlm.data.decode import Picture
from mae_vlm.data.sources.parts.files import EXTENSIONS
from mae_vlm.types import Sample

_SUFFIXES = {"jpeg": ".jpg", "mpo": ".jpg", "tiff": ".tif", "jpeg2000": ".jp2"}  # others are called as Pillow calls the format


def prepared(
    sample: Sample, side: int | None, quality: int, value_range: tuple[float, float] | None = None
) -> tuple[Sample, bytes | None, str]:
    """``(sample, data, suffix)``: the sample as it is to be written, its picture's new file (None: as it was) and the file's ending.

    A short side over ``side`` pixels is brought to it; smaller pictures, and all where it is None, stay as they are, byte for byte, but
    are decoded to see that they can be.

    Raises:
        ValueError: the picture or its masks cannot be decoded; the message names the sample.
    """
    found = picture(sample, value_range)
    short = min(found.height, found.width)
    suffix = _SUFFIXES.get(found.header.format, f".{found.header.format}")
    if side is None or short <= side:
        image_CHW = pixels(found)
        return (sample, None, suffix) if suffix in EXTENSIONS else (sample, *encode(image_CHW, quality, lossless=True))
    height, width = (max(1, round(length * side / short)) for length in (found.height, found.width))
    return _annotations_shrunk(sample, found, height, width), *encode(shrunk(found, height, width), quality)


def encode(image_CHW: Tensor, quality: int, lossless: bool = False) -> tuple[bytes, str]:
    """The file and its ending: JPEG for 8 bits in grey or RGB, else PNG or TIFF without loss.

    Raises:
        ValueError: bands that only rasterio writes, and it is not installed.
    """
    channels, plain = image_CHW.shape[0], image_CHW.dtype == torch.uint8
    values_HWC = np.ascontiguousarray(image_CHW.permute(1, 2, 0).numpy())
    if plain and channels in (1, 3) and not lossless:
        space = "GRAY" if channels == 1 else "RGB"
        return simplejpeg.encode_jpeg(values_HWC, quality, space, "Gray" if channels == 1 else "420"), ".jpg"
    if channels == 1 or (plain and channels == 3):
        buffer = io.BytesIO()
        Image.fromarray(values_HWC[..., 0] if channels == 1 else values_HWC).save(buffer, "PNG")
        return buffer.getvalue(), ".png"
    return _encode_bands(values_HWC), ".tif"


def _encode_bands(values_HWC: np.ndarray[Any, Any]) -> bytes:
    try:
        from rasterio.io import MemoryFile
    except ImportError:
        raise ValueError("pictures of many bands need rasterio to be written; pip install 'mae_vlm[bands]'") from None
    height, width, count = values_HWC.shape
    with warnings.catch_warnings(), MemoryFile() as memory:
        warnings.simplefilter("ignore")  # a picture is nowhere on the earth
        with memory.open(
            driver="GTiff",
            height=height,
            width=width,
            count=count,
            dtype=values_HWC.dtype.name,
            compress="deflate",
            photometric="minisblack",
        ) as file:
            file.write(values_HWC.transpose(2, 0, 1))
        return bytes(memory.read())


def _annotations_shrunk(sample: Sample, found: Picture, height: int, width: int) -> Sample:
    changed: dict[str, Any] = {}
    if sample.boxes is not None:
        across, down = width / found.width, height / found.height
        changed["boxes"] = (sample.boxes.double() * torch.tensor([across, down, across, down], dtype=torch.float64)).float()
    if sample.masks is not None:
        changed["masks"] = shrink_masks(_decoded(sample.masks, sample, found), height, width)
    if sample.semantic is not None:
        semantic_HW = _decoded(sample.semantic, sample, found)
        changed["semantic"] = F.interpolate(semantic_HW[None, None].float(), (height, width), mode="nearest-exact")[0, 0].to(
            semantic_HW.dtype
        )
    return replace(sample, **changed)


def _decoded(masks: Any, sample: Sample, found: Picture) -> Tensor:
    pixels: Tensor = masks if isinstance(masks, Tensor) else masks.decode()
    if tuple(pixels.shape[-2:]) != (found.height, found.width):
        raise ValueError(
            f"{sample.id}: masks of {pixels.shape[-1]} x {pixels.shape[-2]} pixels for a picture of {found.width} x {found.height}"
        )
    return pixels


def shrink_masks(masks_NHW: Tensor, height: int, width: int) -> Tensor:
    """Bool ``[N, height, width]``: pixels of which at least half is covered; of an object that has none, those it covers most."""
    shrunk = masks_NHW.new_empty((len(masks_NHW), height, width))
    for number, mask_HW in enumerate(masks_NHW):  # one at a time: a hundred at full size are a gigabyte
        cover_HW = F.interpolate(mask_HW[None, None].float(), (height, width), mode="bilinear", antialias=True)[0, 0]
        shrunk[number] = cover_HW >= min(0.5, float(cover_HW.max().clamp(min=1e-6)))
    return shrunk
