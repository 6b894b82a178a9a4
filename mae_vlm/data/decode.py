"""Encoded picture files to uint8 pixels: the header is read and judged first, then every mode becomes 1 or 3 channels.

JPEGs in grey or RGB go through torchvision's decoder, everything else through Pillow. Conventions: transparency is laid over
white, 16-bit greys are divided by 257, animations give their first frame, EXIF orientation is applied.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.io import ImageReadMode  # importing torchvision.io also registers the operator that _decode_jpeg calls

MAX_PIXELS = 178_956_970  # Pillow's own limit: 1/4 GiB of 24-bit pixels, halved (a picture of 13,377 x 13,377)

_JPEG_SIZED = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start-of-frame markers carry the size
_READ_MODE = {1: ImageReadMode.GRAY.value, 3: ImageReadMode.RGB.value}


@dataclass(frozen=True)
class Header:
    """Size in pixels as stored (before EXIF rotation), channels that hold pictures (1 grey, else 3), and the file format."""

    height: int
    width: int
    channels: int
    format: str
    plain: bool = False  # a JPEG that torchvision decodes: grey or three components


def header(data: bytes, name: str = "picture") -> Header:
    """Reads the size without decoding.

    Raises:
        ValueError: not a picture, or its header is broken; the message names ``name``.
    """
    if data[:2] == b"\xff\xd8":
        found = _jpeg_header(data)
        if found is not None:
            return found
    with _opened(data, name) as image:
        grey = image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;")
        return Header(image.height, image.width, 1 if grey else 3, (image.format or "").lower())


def decode(data: bytes, channels: int | None = 3, name: str = "picture", max_pixels: int = MAX_PIXELS) -> Tensor:
    """Pixels of an encoded picture: uint8 ``[C, H, W]`` with C = ``channels`` (1 or 3), or the file's own 1 or 3 where None.

    Raises:
        ValueError: not a picture, damaged, truncated, of a kind we cannot scale to 8 bits, or over ``max_pixels``
            (checked before any pixel is decoded); the message names ``name``.
    """
    found = header(data, name)
    if found.height * found.width > max_pixels:
        raise ValueError(
            f"{name}: {found.width} x {found.height} pixels are more than the limit of {max_pixels:,}; shrink the picture or remove it"
        )
    wanted = found.channels if channels is None else channels
    if found.plain:
        return _decode_jpeg(data, wanted, name)
    with _opened(data, name) as image:
        return from_pil(image, wanted, name)


def to_channels(image_CHW: Tensor, channels: int | None) -> Tensor:
    """The same uint8 picture with ``channels`` channels: grey is repeated, RGB is weighed (ITU-R 601); None changes nothing.

    Raises:
        ValueError: a picture of other than 1 or 3 channels would have to change.
    """
    own = image_CHW.shape[0]
    if channels is None or own == channels:
        return image_CHW
    if own == 1 and channels == 3:
        return image_CHW.expand(3, -1, -1)
    if own == 3 and channels == 1:
        red, green, blue = image_CHW.int().unbind(0)
        return ((red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16).to(torch.uint8)[None]
    raise ValueError(f"a picture of {own} channels cannot be read with {channels}; set data.channels to {own}")


def _jpeg_header(data: bytes) -> Header | None:
    """Walks the markers up to the frame header; None where the file ends before it."""
    at, end = 2, len(data)
    while at + 9 < end:
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _JPEG_SIZED:
            height, width, components = data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8], data[at + 9]
            plain = components in (1, 3) and height > 0 and width > 0
            return Header(height, width, 1 if components == 1 else 3, "jpeg", plain)
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a body
            at += 2
        else:
            at += 2 + (data[at + 2] << 8 | data[at + 3])
    return None


def _opened(data: bytes, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is judged by max_pixels
            return Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: more pixels than Pillow opens ({error}); shrink the picture or remove it") from None
    except Exception as error:  # Pillow's plugins raise what they like on damaged headers
        what = "an empty file" if not data else "not a picture, or its header is broken"
        raise ValueError(f"{name}: {what} ({len(data)} bytes, {type(error).__name__}); remove it or replace it") from None


def _decode_jpeg(data: bytes, channels: int, name: str) -> Tensor:
    try:
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)  # torch wants memory that may be written
        pixels: Tensor = torch.ops.image.decode_jpeg(
            encoded, _READ_MODE[channels], True
        )  # the operator under torchvision.io.decode_jpeg: 14 of 44 us less
        return pixels
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{name}: the JPEG is damaged or cut short ({reason}); remove it or replace it") from None


def from_pil(image: Image.Image, channels: int, name: str = "picture") -> Tensor:
    """uint8 ``[channels, H, W]`` (1 or 3) of a PIL picture of any mode, as :func:`decode` reads its file.

    Raises:
        ValueError: floating point numbers without a known range, or damaged data.
    """
    try:
        image.seek(0)
        image = ImageOps.exif_transpose(image)
        pixels = np.array(_eight_bit(image, name).convert("L" if channels == 1 else "RGB"))
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(name) else f"{name}: {error}; save it as RGB, or remove it") from None
    except Exception as error:  # damaged data: OSError, SyntaxError, struct.error, zlib.error ...
        raise ValueError(f"{name}: damaged or cut short ({type(error).__name__}: {error}); remove it or replace it") from None
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _eight_bit(image: Image.Image, name: str) -> Image.Image:
    """The picture in a mode that Pillow converts rightly to L or RGB: opaque and of 8 bits."""
    if image.mode == "I" or image.mode.startswith("I;"):
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray(np.clip((values + 128) // 257, 0, 255).astype(np.uint8))
    if image.mode == "F":
        raise ValueError(f"{name}: a picture of floating point numbers has no known range; save it with 8 or 16 bits")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB") if image.mode in ("LAB", "HSV") else image  # Pillow has no way from these to grey
