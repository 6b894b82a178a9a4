"""EXIF orientation: a picture stored turned or mirrored, and the way between what is stored and what is shown (EXIF 2.32, 4.6.4)."""

from __future__ import annotations

import struct

from torch import Tensor

from mae_vlm.data.transforms import Window

_TAG = 0x0112
_FLIPS = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}  # of the shown axes: down, across


def exif_orientation(exif: bytes) -> int:
    """The orientation in an EXIF block (a small TIFF), 1 to 8; 1 where there is none or the block is junk."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(exif[:4]))
    if order is None:
        return 1
    try:
        at = struct.unpack_from(order + "I", exif, 4)[0]
        for entry in range(struct.unpack_from(order + "H", exif, at)[0]):
            tag, kind = struct.unpack_from(order + "HH", exif, at + 2 + 12 * entry)
            if tag == _TAG:
                value: int = struct.unpack_from(order + ("I" if kind == 4 else "H"), exif, at + 10 + 12 * entry)[0]
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def turned_size(height: int, width: int, orientation: int) -> tuple[int, int]:
    """(height, width) of the shown picture from the stored one, or the other way round: the sides change places or stay."""
    return (width, height) if orientation >= 5 else (height, width)


def stored_window(window: Window, height: int, width: int, orientation: int) -> Window:
    """Where a window of the shown picture (``height`` x ``width``) lies in the stored one."""
    down, across = _FLIPS[orientation]
    top = height - window.top - window.height if down else window.top
    left = width - window.left - window.width if across else window.left
    return Window(left, top, window.width, window.height) if orientation >= 5 else Window(top, left, window.height, window.width)


def upright(pixels_CHW: Tensor, orientation: int, mirrored: bool = False) -> Tensor:
    """Stored pixels as they are shown, and then mirrored left to right where asked for."""
    if orientation >= 5:
        pixels_CHW = pixels_CHW.transpose(1, 2)
    down, across = _FLIPS[orientation]
    axes = [1] * down + [2] * (bool(across) != mirrored)
    return pixels_CHW.flip(axes) if axes else pixels_CHW
