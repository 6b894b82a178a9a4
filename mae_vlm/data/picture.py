"""A picture of which only the header is read until somebody wants a part of it: then as little as that part needs is decoded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae_vlm.data import bands
from mae_vlm.data.form import Form, formed, to_channels, to_depth
from mae_vlm.data.header import Header, header, is_tiff, opened, whole
from mae_vlm.data.jpeg import decode_jpeg
from mae_vlm.data.modes import read_deep_png, read_modes
from mae_vlm.data.orientation import stored_window, turned_size, upright
from mae_vlm.data.transforms import Crop, Window, apply, reduction, resample

MAX_PIXELS = 178_956_970  # Pillow's own limit: 1/4 GiB of 24-bit pixels, halved (a picture of 13,377 x 13,377)
_USUAL = Form()
_COARSEST = 8  # of a JPEG; overviews of a TIFF go on
_COARSEST_BANDS = 1024


class Picture:
    """An encoded picture (its bytes, or the path of a TIFF), or pixels ``[C, H, W]`` in memory, behind the same two questions.

    ``height`` and ``width`` are as shown, after EXIF rotation.

    Raises:
        ValueError: not a picture, or over ``max_pixels`` (before any pixel is decoded); the message names ``name``.
    """

    def __init__(self, data: bytes | Path | Tensor, form: Form = _USUAL, name: str = "picture", max_pixels: int = MAX_PIXELS) -> None:
        if isinstance(data, Path) and not is_tiff(data):
            data = data.read_bytes()
        self.data, self.form, self.name, self.max_pixels = data, form, name, max_pixels
        if isinstance(data, Tensor):
            channels, self.height, self.width = data.shape
            self.header = Header(self.height, self.width, channels, "pixels", decoder="memory")
            return
        self.header = header(data, name)
        self.height, self.width = self.header.height, self.header.width
        if self.height * self.width > max_pixels and not self._windowed:
            raise ValueError(
                f"{name}: {self.width} x {self.height} pixels are more than the limit of {max_pixels:,}; shrink the picture or remove it"
            )

    def pixels(self) -> Tensor:
        """The whole picture: uint8 or uint16 ``[C, H, W]``.

        Raises:
            ValueError: damaged, truncated, or not to be had in this form; the message names the picture.
        """
        if isinstance(self.data, Tensor):
            return formed(self.data, self.form, self.name)
        return self.crop(Crop(Window(0, 0, self.height, self.width), self.height, self.width, exact=True))

    def crop(self, crop: Crop) -> Tensor:
        """A window of the shown picture at its final size: uint8 or uint16 ``[C, crop.height, crop.width]``.

        Raises:
            ValueError: as :meth:`pixels`.
        """
        if isinstance(self.data, Tensor):
            return apply(formed(self.data, self.form, self.name), crop)
        orientation = self._orientation
        window = stored_window(crop.window, self.height, self.width, orientation)
        turned = turned_size(crop.height, crop.width, orientation)
        values_HWC, span = self._values(window, *((window.height, window.width) if crop.exact else turned))
        pixels_CHW = torch.from_numpy(to_depth(values_HWC, self.form, self.name)).permute(2, 0, 1)
        pixels_CHW = upright(resample(pixels_CHW, *turned, span), orientation, crop.mirrored)
        try:
            return to_channels(pixels_CHW, self.form.channels)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None

    @property
    def _orientation(self) -> int:
        """How what the decoder gives is turned: Pillow turns TIFFs itself."""
        return 1 if self.header.format == "tiff" and not self._windowed else self.header.orientation

    @property
    def _windowed(self) -> bool:
        """Whether rasterio reads it: because nothing else can, or for its size where it is installed."""
        return self.header.decoder == "bands" and (not self.header.easy or bands.available())

    def _values(self, window: Window, height: int, width: int) -> tuple[NDArray[Any], tuple[float, float]]:
        """File values ``[h, w, C]`` that cover ``window`` of the stored picture with at least ``height`` x ``width``, and how many of
        these rows and columns the window spans.
        """
        head, channels = self.header, self.form.channels
        if self._windowed:
            assert not isinstance(self.data, Tensor)
            factor = reduction(window, height, width, _COARSEST_BANDS)
            values = bands.read_bands(self.data, window, factor, channels, self.max_pixels, self.name)
            return values, values.shape[:2]
        assert not isinstance(self.data, Tensor)
        data = whole(self.data)
        if head.decoder == "jpeg":
            factor = reduction(window, height, width, _COARSEST)
            grey = head.channels == 1 or channels == 1
            return _part(decode_jpeg(data, *head.stored, factor, grey, self.name), window, factor)
        if head.decoder == "png" and (self.form.bits == 16 or self.form.value_range):
            return _part(read_deep_png(data, self.name), window, 1)
        box = (window.left, window.top, window.left + window.width, window.top + window.height)
        with opened(data, self.name) as image:
            return read_modes(image, box, channels, self.name), (window.height, window.width)


def _part(values_HWC: NDArray[Any], window: Window, factor: int) -> tuple[NDArray[Any], tuple[float, float]]:
    """The rows and columns of ``window`` in values at 1 / ``factor`` of the picture, the last ones whole, and how many the window spans."""
    top, left = round(window.top / factor), round(window.left / factor)
    rows, columns = window.height / factor, window.width / factor
    part = values_HWC[top : top + math.ceil(rows), left : left + math.ceil(columns)]
    part = np.ascontiguousarray(part)  # less than what resampling loses on rows with gaps
    return part, (min(rows, part.shape[0]), min(columns, part.shape[1]))
