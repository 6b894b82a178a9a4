"""Size, channels, depth and orientation of an encoded picture, from its header alone: no pixel is decoded to know them.

JPEG, PNG and TIFF are read here (the size of a TIFF of any number of bands); Pillow reads the headers of everything else.
"""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, TiffImagePlugin

from mae_vlm.data.orientation import exif_orientation, turned_size

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")  # all that Pillow may try: EPS would run Ghostscript
MOST_BANDS = 4096
_JPEG_SIZED = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start-of-frame markers carry the size
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_COLOURS = (2, 3, 6)  # colour types of more than grey
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_LARGE = 1 << 22  # pixels from which a TIFF is read by windows
_PALETTE, _SEPARATED, _YCBCR, _LAB = 3, 5, 6, 8  # photometric interpretations of TIFF 6.0 that Pillow turns into RGB


@dataclass(frozen=True)
class Header:
    """What a file says of its picture.

    ``height`` and ``width`` are as it is shown (after EXIF rotation), ``channels`` those that hold pictures (without
    transparency), ``bits`` 1 to 64 for each. ``decoder`` is what reads it: jpeg, png (16-bit colour), bands (TIFF by windows), or pillow.
    ``easy`` bands may be read by Pillow as well. ``orientation`` is EXIF's, 1 to 8.
    """

    height: int
    width: int
    channels: int
    format: str
    bits: int = 8
    decoder: str = "pillow"
    orientation: int = 1
    easy: bool = True

    @property
    def stored(self) -> tuple[int, int]:
        """(height, width) as stored, before EXIF rotation."""
        return turned_size(self.height, self.width, self.orientation)


def header(data: bytes | Path, name: str = "picture") -> Header:
    """Reads what the file says of itself without decoding; of a path only the header is read.

    Raises:
        ValueError: not a picture, its header is broken, or it has more than 4096 bands; the message names ``name``.
    """
    found = _tiff_header(data) if is_tiff(data) else None
    if found is not None and found.channels > MOST_BANDS:
        raise ValueError(f"{name}: {found.channels:,} bands are more than the limit of {MOST_BANDS:,}; save fewer, or remove it")
    if found is None:
        data = whole(data)
        if data[:2] == b"\xff\xd8":
            found = _jpeg_header(data)
        elif data[:8] == _PNG_SIGNATURE:
            found = _png_header(data)
    return found or _pillow_header(whole(data), name)


def is_tiff(data: bytes | Path) -> bool:
    """Whether a file begins as TIFF or BigTIFF do."""
    if isinstance(data, bytes):
        return data[:4] in _TIFF_STARTS
    with data.open("rb") as file:
        return file.read(4) in _TIFF_STARTS


def whole(data: bytes | Path) -> bytes:
    """All bytes of a file, given as such or by its path."""
    return data if isinstance(data, bytes) else data.read_bytes()


def opened(data: bytes, name: str) -> Image.Image:
    """The picture in Pillow, its header read.

    Raises:
        ValueError: Pillow cannot tell what it is.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the size is judged by max_pixels; damaged EXIF does not matter
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: more pixels than Pillow opens ({error}); shrink the picture or remove it") from None
    except Exception as error:  # Pillow's plugins raise what they like on damaged headers
        what = "an empty file" if not data else "not a picture, or its header is broken"
        raise ValueError(f"{name}: {what} ({len(data)} bytes, {type(error).__name__}); remove it or replace it") from None


def _shown(height: int, width: int, orientation: int, **others: Any) -> Header | None:
    if min(height, width) < 1:
        return None
    shown = turned_size(height, width, orientation)
    return Header(*shown, orientation=orientation, **others)


def _jpeg_header(data: bytes) -> Header | None:
    """Walks the markers up to the frame header; None where the file ends before it."""
    at, end, orientation = 2, len(data), 1
    while at + 9 < end:
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _JPEG_SIZED:
            bits, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
            plain = components in (1, 3) and bits == 8
            channels = 1 if components == 1 else 3
            decoder = "jpeg" if plain else "pillow"
            return _shown(height, width, orientation, channels=channels, format="jpeg", bits=bits, decoder=decoder)
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a body
            at += 2
        else:
            length = data[at + 2] << 8 | data[at + 3]
            if marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0" and orientation == 1:
                orientation = exif_orientation(data[at + 10 : at + 2 + length])
            at += 2 + length
    return None


def _png_header(data: bytes) -> Header | None:
    """Walks all chunks, because EXIF may stand behind the pixels; None where the first is no IHDR."""
    if len(data) < 33 or data[12:16] != b"IHDR":
        return None
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    at, orientation = 33, 1
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"eXIf":
            orientation = exif_orientation(data[at + 8 : at + 8 + length])
        at += 12 + length
    deep = bits == 16 and colour != 0
    channels = 3 if colour in _PNG_COLOURS else 1
    return _shown(height, width, orientation, channels=channels, format="png", bits=max(bits, 8), decoder="png" if deep else "pillow")


def _tiff_header(data: bytes | Path) -> Header | None:
    try:
        with io.BytesIO(data) if isinstance(data, bytes) else data.open("rb") as file:
            tags = _tiff_tags(file)
    except Exception:  # Pillow's reader raises what it likes on damaged tags
        return None
    samples, bits, kind = int(tags.get(277, 1)), max(_all(tags.get(258, 1))), max(_all(tags.get(339, 1)))
    photometric, extra = int(tags.get(262, 1)), _all(tags.get(338, ()))
    if photometric in (_PALETTE, _SEPARATED, _LAB) or (photometric == _YCBCR and tags.get(259) != 7):
        decoder, channels, easy = "pillow", 3, True
    else:
        alpha = samples in (2, 4) and any(value in (1, 2) for value in extra)
        channels = samples - alpha
        easy = channels in (1, 3) and (bits <= 8 or channels == 1) and len(extra) == alpha and not (kind == 3 and bits != 32)
        large = int(tags[256]) * int(tags[257]) > _LARGE and bits >= 8 and photometric != 0
        decoder = "bands" if large or not easy else "pillow"
    height, width, orientation = int(tags[257]), int(tags[256]), tags.get(274, 1)
    orientation = orientation if orientation in range(1, 9) else 1
    return _shown(height, width, orientation, channels=channels, format="tiff", bits=max(bits, 8), decoder=decoder, easy=easy)


def _tiff_tags(file: BinaryIO) -> Any:
    start = file.read(8)
    start += file.read(8) if 43 in start[2:4] else b""  # BigTIFF
    tags = TiffImagePlugin.ImageFileDirectory_v2(start)
    file.seek(tags.next)
    tags.load(file)
    return tags if tags[256] and tags[257] else None


def _all(values: Any) -> tuple[Any, ...]:
    return values if isinstance(values, tuple) else (values,)


def _pillow_header(data: bytes, name: str) -> Header:
    with opened(data, name) as image:
        grey = image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;")
        bits = 16 if image.mode.startswith("I;") else 32 if image.mode in ("I", "F") else 8
        found = _shown(
            image.height, image.width, _orientation(image), channels=1 if grey else 3, format=(image.format or "").lower(), bits=bits
        )
    if found is None:
        raise ValueError(f"{name}: the picture has no pixels; remove it or replace it")
    return found


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(0x0112, 1)
    except Exception:  # junk where EXIF should be
        return 1
    return int(found) if found in range(1, 9) else 1
