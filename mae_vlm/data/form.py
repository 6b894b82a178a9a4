"""In which form pictures are wanted: how many channels, 8 or 16 bits, and which file values are black and white."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_FULL = {8: 255, 16: 65535}
# Lowest and highest value of the types that have no obvious form here; 32 bits and more hold 16 in practice (Pillow's mode I).
_RANGES = {"i1": (-128, 127), "i2": (-32768, 32767), "i4": (0, 65535), "u4": (0, 65535), "i8": (0, 65535), "u8": (0, 65535)}


class Form(NamedTuple):
    """``channels`` (None: the file's own), ``bits`` for each (8: uint8, 16: uint16), and the lowest and highest value that files hold.

    Values from ``value_range`` are spread over all of the bits; None means the whole range of the file's type.
    """

    channels: int | None = 3
    bits: int = 8
    value_range: tuple[float, float] | None = None


def to_depth(values: NDArray[Any], form: Form, name: str) -> NDArray[Any]:
    """File values as uint8 or uint16 over their full range: rounded, clipped, not-a-number as the lowest.

    Raises:
        ValueError: floating point numbers without a ``value_range``.
    """
    kind, wanted = values.dtype.str[1:], f"u{form.bits // 8}"
    if form.value_range is None:
        if kind == wanted:
            return values
        if (kind, wanted) == ("u1", "u2"):
            return values.astype(np.uint16) * 257
        if (kind, wanted) == ("u2", "u1"):
            return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    low, high = form.value_range or _RANGES.get(kind) or (None, None)
    if low is None or high is None:
        raise ValueError(
            f"{name}: a picture of floating point numbers has no known range; "
            "set data.value_range to their lowest and highest, or save it with 8 or 16 bits"
        )
    exact: NDArray[Any] = values.astype(np.float64 if values.dtype.itemsize >= 4 else np.float32)
    scaled = np.nan_to_num((exact - low) * (_FULL[form.bits] / (high - low)), nan=0.0)
    depth: NDArray[Any] = np.rint(np.clip(scaled, 0, _FULL[form.bits])).astype(wanted)
    return depth


def to_channels(image_CHW: Tensor, channels: int | None) -> Tensor:
    """The same picture (uint8 or uint16) with ``channels`` channels: grey is repeated, RGB is weighed (ITU-R 601); None changes nothing.

    Raises:
        ValueError: a picture of other than 1 or 3 channels would have to change.
    """
    own = image_CHW.shape[0]
    if channels is None or own == channels:
        return image_CHW
    if own == 1 and channels == 3:
        return image_CHW.expand(3, -1, -1)
    if own == 3 and channels == 1:
        red, green, blue = image_CHW.long().unbind(0)
        return ((red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16).to(image_CHW.dtype)[None]
    raise ValueError(f"a picture of {own} channels cannot be read with {channels}; set data.channels to {own}")


def formed(image_CHW: Tensor, form: Form, name: str = "picture") -> Tensor:
    """A picture already in memory (uint8 or uint16) in that form."""
    pixels = torch.from_numpy(to_depth(image_CHW.numpy(), form, name))
    return to_channels(pixels, form.channels)
