"""A look at some training pictures before the first step: are they distinct, and is there anything in them to predict?

Letters: C channels, H, W pixels, N patches, P pixels of a patch in one channel.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from mae_vlm.data.decode import Picture
from mae_vlm.data.reader import Reader
from mae_vlm.data.transforms import Resize
from mae_vlm.types import Sample

_MOST, _LOOKED_AT = 2000, 64
_LEVEL = 1 / 255
_WINDOW = 8  # pixels: in smaller patches a slope cannot be told from noise


def sampled(reader: Reader, size: tuple[int, int], patch: int, seconds: float = 0.5) -> dict[str, Any]:
    """Facts of a random part of the training pictures, the same part every time.

    At most 2,000 are read and their bytes compared; the first 64 are decoded at the run's size (height, width), and looked at per patch
    (of 8 pixels at least). Neither goes on for more than ``seconds``, so that a slow disk does not delay the run.

    Returns:
        total: pictures in the part; read: compared ones; distinct: different ones among them; pairs: of equal ones.
        looked_at: decoded ones. constant: the share of them of which every channel deviates by less than 2 of 255 levels (of one colour).
        patch_deviation: the median patch's deviation within a channel, of a range of 1. flat_patches: the share of patches below 2 levels.
        patch_noise: half the mean squared difference of neighbouring pixels over the variance in the patch, the median patch: 1 in white
        noise, about 0.1 in photographs.
    """
    count = len(reader.source)
    order = random.Random(0).sample(range(count), min(count, _MOST))
    ends = time.monotonic() + seconds
    digests: Counter[bytes] = Counter()
    some: list[Sample] = []
    for index in order:
        try:
            sample = reader.source[index]
            digests[_digest(sample)] += 1
        except (ValueError, OSError):  # the reader will tell of it
            continue
        some.extend([sample] if len(some) < _LOOKED_AT else [])
        if time.monotonic() > ends:
            break
    window = min(max(patch, _WINDOW), *size)
    pairs = sum(times * (times - 1) // 2 for times in digests.values())
    facts = {"format": 1, "total": count, "read": digests.total(), "distinct": len(digests), "pairs": pairs}
    return facts | _look(some, reader, size, window, seconds)


def _digest(sample: Sample) -> bytes:
    image = sample.image
    data = image.read_bytes() if isinstance(image, Path) else image.numpy().tobytes() if isinstance(image, Tensor) else image
    return hashlib.blake2b(data, digest_size=16).digest()


def _look(samples: list[Sample], reader: Reader, size: tuple[int, int], window: int, seconds: float) -> dict[str, Any]:
    resize, ends = Resize(size), time.monotonic() + seconds
    blank: list[bool] = []
    deviations, noises = [], []
    for sample in samples:
        try:
            picture = Picture(sample.image, reader.form, sample.id)
            pixels_CHW = picture.crop(resize.plan(picture.height, picture.width, 0))
        except (ValueError, OSError):
            continue
        pixels_CHW = pixels_CHW.float() / (255 if reader.form.bits == 8 else 65535)
        blank.append(bool((pixels_CHW.std(dim=(1, 2)) < 2 * _LEVEL).all()))
        deviation_N, noise_N = patch_noise(pixels_CHW, window)
        deviations.append(deviation_N)
        noises.append(noise_N)
        if time.monotonic() > ends:
            break
    if not blank:
        return {"looked_at": 0}
    deviation_N, noise_N = torch.cat(deviations), torch.cat(noises)
    return {
        "looked_at": len(blank),
        "constant": sum(blank) / len(blank),
        "patch_deviation": median(deviation_N.tolist()),
        "flat_patches": (deviation_N < 2 * _LEVEL).float().mean().item(),
        "patch_noise": median(noise_N.tolist()),
    }


def patch_noise(pixels_CHW: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    """Deviation of each patch within its channels, and how far that is between neighbouring pixels, ``[N]`` each.

    The second is von Neumann's ratio: half the mean squared difference of neighbours over the variance, 1 for white noise; 0 for a patch
    of one colour.
    """
    patches_CNPP = pixels_CHW.unfold(1, patch, patch).unfold(2, patch, patch).flatten(1, 2)
    variance_N = patches_CNPP.var(dim=(2, 3)).mean(dim=0)
    across_N = patches_CNPP.diff(dim=3).square().mean(dim=(0, 2, 3))
    down_N = patches_CNPP.diff(dim=2).square().mean(dim=(0, 2, 3))
    return variance_N.sqrt(), (across_N + down_N) / 4 / variance_N.clamp(min=1e-12)
