"""Decoded pictures of a small collection, kept in memory that forked loader workers share."""

from __future__ import annotations

import mmap
from typing import Any

import torch
from torch import Tensor

MOST_BYTES = 256 << 20
_TYPES = {8: torch.uint8, 16: torch.uint16}


class PixelCache:
    """Room for ``length`` pictures of one shape (C, H, W) and of 8 or 16 ``bits``: a picture decoded by one worker is there for all.

    The memory is anonymous and shared by fork (not /dev/shm, which containers keep small), and is only taken as it fills up. Workers
    that are spawned instead start with an empty cache of their own. Two workers may decode the same picture at once: they write the same.
    """

    def __init__(self, length: int, shape: tuple[int, int, int], bits: int = 8) -> None:
        self.length, self.shape, self.bits = length, shape, bits
        channels, height, width = shape
        pixels = channels * height * width * bits // 8
        room = torch.frombuffer(mmap.mmap(-1, length * (pixels + 1)), dtype=torch.uint8)
        self._pixels_NHWC = room[: length * pixels].view(_TYPES[bits]).view(length, height, width, channels)  # the order that decoders give
        self._filled_N = memoryview(room[length * pixels :].numpy())  # type: ignore[arg-type]

    @staticmethod
    def fits(length: int, shape: tuple[int, int, int], bits: int = 8) -> bool:
        """Whether that many pictures of that shape take at most 256 MiB."""
        return length * shape[0] * shape[1] * shape[2] * bits // 8 <= MOST_BYTES

    @classmethod
    def of(cls, length: int, shape: tuple[int, int, int], bits: int = 8) -> PixelCache | None:
        """Room for them, where they fit."""
        return cls(length, shape, bits) if cls.fits(length, shape, bits) else None

    def __getstate__(self) -> dict[str, Any]:
        return {"length": self.length, "shape": self.shape, "bits": self.bits}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def get(self, index: int) -> Tensor | None:
        """The picture as uint8 or uint16 ``[C, H, W]`` (not to be written to), or None where nobody has put it yet."""
        return self._pixels_NHWC[index].permute(2, 0, 1) if self._filled_N[index] else None

    def put(self, index: int, pixels_CHW: Tensor) -> None:
        """Keeps the picture; one of another shape is not kept."""
        if pixels_CHW.shape == self.shape:
            self._pixels_NHWC[index] = pixels_CHW.permute(1, 2, 0)
            self._filled_N[index] = 1  # last: who reads it set finds all pixels
