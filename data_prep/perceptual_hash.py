"""64 bits that tell what a picture looks like: the same for a smaller, re-encoded, brighter or grey copy, up to a few bits.

The lowest 64 frequencies of the cosine transform of a grey 32 x 32 thumbnail, each set where it is above its median in the collection:
pictures of one kind (X-rays, faces) share their lowest frequencies, and bits that are always equal would tell nothing. A copy whose
margins were cut changes more bits, so each picture is also hashed as if its own margins had been cut in a few ways (``probes``).
After Zauner, 2010, "Implementation and benchmarking of perceptual image hash functions", section 3.2.1; medians and probes are ours.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

SIDE = 32  # pixels of a thumbnail's side
CUT = 0.03  # share of a side that may be cut off at each margin
_CUTS = (
    (0, 0, 0, 0),
    (1, 1, 1, 1),
    (0.5, 0.5, 0.5, 0.5),
    (1, 1, 0, 0),
    (0, 0, 1, 1),
    (1, 0, 0, 1),
    (0, 1, 1, 0),
)  # left, top, right, bottom
_SAMPLE = 20_000  # thumbnails that the medians are taken from
_CHUNK = 4096
_FREQUENCIES = sorted(((u, v) for u in range(12) for v in range(12) if u + v), key=lambda pair: (pair[0] ** 2 + pair[1] ** 2, pair))[:64]
# bits in the order of the four bands that are searched: each band has frequencies of all heights
_ROWS, _COLUMNS = np.array([_FREQUENCIES[number] for band in range(4) for number in range(band, 64, 4)]).T


def thumbnail(image_CHW: Tensor) -> NDArray[np.uint8]:
    """Grey uint8 ``[32, 32]`` of a picture of any channels; values that are not of 8 bits are stretched over what the picture has."""
    if image_CHW.dtype != torch.uint8:
        values = image_CHW.float()
        low, high = values.aminmax()
        image_CHW = ((values - low) * (255 / max(float(high - low), 1e-12))).to(torch.uint8)
    small_CHW = F.interpolate(image_CHW[None], (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)[0].float()
    weights = (
        small_CHW.new_tensor([0.299, 0.587, 0.114]) if len(small_CHW) == 3 else small_CHW.new_full((len(small_CHW),), 1 / len(small_CHW))
    )
    grey: NDArray[np.uint8] = torch.einsum("chw,c->hw", small_CHW, weights).round().to(torch.uint8).numpy()
    return grey


def colours(image_CHW: Tensor) -> NDArray[np.int8]:
    """Int8 ``[4, 4, 2]``: how much redder and bluer than grey each sixteenth of the picture is, halved; 0 for other than 3 channels."""
    if image_CHW.shape[0] != 3 or image_CHW.dtype != torch.uint8:
        return np.zeros((4, 4, 2), np.int8)
    small_CHW = F.interpolate(image_CHW[None], (4, 4), mode="bilinear", antialias=True, align_corners=False)[0].float()
    red_blue_HWC = (small_CHW[[0, 2]] - small_CHW.mean(0)).permute(1, 2, 0) / 2
    found: NDArray[np.int8] = red_blue_HWC.round().to(torch.int8).numpy()
    return found


def hashes(thumbs_NHW: NDArray[np.uint8], mirrored: bool = False) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """``(base, probes)``: uint64 ``[N]`` and ``[V, N]``; a copy's base is near one of its original's probes. ``mirrored`` doubles V."""
    step = max(1, len(thumbs_NHW) // _SAMPLE)
    medians = np.median(_coefficients(thumbs_NHW[::step], _CUTS[0]), axis=0)
    views = [thumbs_NHW, thumbs_NHW[:, :, ::-1]] if mirrored else [thumbs_NHW]
    probes = np.stack([_bits(view, cut, medians) for view in views for cut in _CUTS])
    return probes[0], probes


def cut_matrix(first: float, last: float) -> NDArray[np.float32]:
    """``[32, 32]`` that resamples a row of 32 pixels without its ``first`` and ``last`` shares, linearly."""
    places = first * SIDE + (np.arange(SIDE) + 0.5) * (1 - first - last) - 0.5
    places = places.clip(0, SIDE - 1)
    left = np.minimum(places.astype(np.int64), SIDE - 2)
    matrix = np.zeros((SIDE, SIDE), np.float32)
    matrix[np.arange(SIDE), left] = 1 - (places - left)
    matrix[np.arange(SIDE), left + 1] = places - left
    return matrix


def _bits(thumbs_NHW: NDArray[np.uint8], cut: tuple[float, ...], medians: NDArray[np.float32]) -> NDArray[np.uint64]:
    parts = [
        np.ascontiguousarray(np.packbits(_coefficients(thumbs_NHW[start : start + _CHUNK], cut) > medians, axis=1)).view(np.uint64)[:, 0]
        for start in range(0, len(thumbs_NHW), _CHUNK)
    ]
    return np.concatenate(parts)


def _coefficients(thumbs_NHW: NDArray[np.uint8], cut: tuple[float, ...]) -> NDArray[np.float32]:
    """Float32 ``[N, 64]`` of length 1: contrast and brightness are gone."""
    left, top, right, bottom = (CUT * share for share in cut)
    turns = np.arange(12)[:, None] * (2 * np.arange(SIDE) + 1)
    cosines = np.cos(turns * (np.pi / (2 * SIDE))).astype(np.float32)
    down, across = cosines @ cut_matrix(top, bottom), cosines @ cut_matrix(left, right)
    found = (down @ thumbs_NHW.astype(np.float32) @ across.T)[:, _ROWS, _COLUMNS]
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    result: NDArray[np.float32] = found / np.maximum(lengths, 1e-6)
    return result
