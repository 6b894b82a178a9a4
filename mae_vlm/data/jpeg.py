"""JPEG decoding by libjpeg-turbo (simplejpeg), at 1/2, 1/4 or 1/8 of its size where a crop needs no more.

The reduced sizes come from the inverse transform itself (fewer coefficients of each 8 x 8 block), not from averaging.
"""

from __future__ import annotations

import re
from typing import Any

import simplejpeg
from numpy.typing import NDArray

# What libjpeg warns of although every pixel is there; a damaged or cut file says otherwise, and is refused.
_HARMLESS = re.compile(r"Invalid SOS parameters|Unknown Adobe color transform|JFIF revision|\b[1-9]?\d extraneous bytes before marker")


def decode_jpeg(data: bytes, height: int, width: int, factor: int, grey: bool, name: str) -> NDArray[Any]:
    """uint8 ``[height / factor, width / factor, 1 or 3]`` (rounded up) of a grey or colour JPEG stored as ``height`` x ``width``.

    Raises:
        ValueError: damaged or cut short; the message names ``name``.
    """
    colours, rows, columns = "GRAY" if grey else "RGB", -(-height // factor), -(-width // factor)
    try:
        try:
            pixels = simplejpeg.decode_jpeg(data, colours, min_height=rows, min_width=columns)
        except ValueError as warning:
            if not _HARMLESS.search(str(warning)):
                raise
            pixels = simplejpeg.decode_jpeg(data, colours, min_height=rows, min_width=columns, strict=False)
    except Exception as error:  # ValueError, or what a wrong header leads to
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(f"{name}: the JPEG is damaged or cut short ({reason}); remove it or replace it") from None
    if pixels.shape[:2] != (rows, columns):
        raise ValueError(f"{name}: the JPEG is damaged ({pixels.shape[:2]} pixels decoded for {(rows, columns)}); remove it or replace it")
    found: NDArray[Any] = pixels
    return found
