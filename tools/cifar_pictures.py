"""CIFAR-10 in memory, and random resized crops of a whole batch at once: what a benchmark on two cores needs.

Letters: B pictures, A tries, C channels, H, W pixels of a picture (32), h, w pixels of a crop, S side of the result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from mae_vlm.tokens.chance import key_of, uniform
from mae_vlm.types import Batch

MEAN = [0.4914, 0.4822, 0.4465]  # of CIFAR-10's training pictures in [0, 1]
STD = [0.2470, 0.2435, 0.2616]
CLASSES = 10
SIDE = 32
_TRIES = 10
_CROP_STREAM = 7  # masks are drawn from stream 0 of the same keys


@dataclass(frozen=True)
class Pictures:
    """uint8 ``[count, 3, 32, 32]`` and int64 ``[count]``."""

    images_BCHW: Tensor
    labels_B: Tensor

    def __len__(self) -> int:
        return len(self.labels_B)

    def pick(self, index_B: Tensor) -> Pictures:
        """The pictures of these places, in this order."""
        return Pictures(self.images_BCHW[index_B], self.labels_B[index_B])

    def batch(self, index_B: Tensor, keys_B: Tensor, smallest: float | None = None) -> Batch:
        """A step's pictures, cropped and flipped by their keys unless ``smallest`` (least share of the area) is None."""
        images_BCHW = self.images_BCHW[index_B]
        if smallest is not None:
            images_BCHW = crop_and_flip(images_BCHW, keys_B, smallest)
        return Batch(images_BCHW, keys_B, torch.ones(len(index_B), dtype=torch.bool), self.labels_B[index_B])


def load(folder: Path, split: str) -> Pictures:
    """One split (``train`` or ``val``) of the parquet folder, decoded.

    Raises:
        FileNotFoundError: there is no such parquet file.
    """
    files = sorted((folder / split).glob("*.parquet"))
    if not files:
        raise FileNotFoundError(f"no parquet under {folder / split}; give CIFAR-10 with --data")
    table = pyarrow.parquet.ParquetDataset(files).read()
    images = [decode_jpeg(_bytes(cell["bytes"]), ImageReadMode.RGB) for cell in table["image"].to_pylist()]
    return Pictures(torch.stack(images), torch.tensor(table["label"].to_pylist()))


def keys(seed: int, epoch: int, index_B: Tensor) -> Tensor:
    """The key of every picture ``index_B`` in one epoch, int64 ``[B]``."""
    return torch.tensor([key_of(seed, epoch, place) for place in index_B.tolist()])


def order(count: int, seed: int, epoch: int) -> Tensor:
    """The shuffled order of one epoch, int64 ``[count]``."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(key_of(seed, epoch, -1) & 0x7FFF_FFFF))


def balanced(pictures: Pictures, per_class: int, seed: int = 0) -> Pictures:
    """``per_class`` pictures of each class, drawn by ``seed``."""
    shuffled = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed))
    labels_B = pictures.labels_B[shuffled]
    return pictures.pick(torch.cat([shuffled[labels_B == label][:per_class] for label in range(CLASSES)]))


def crop_and_flip(images_BCHW: Tensor, keys_B: Tensor, smallest: float) -> Tensor:
    """RandomResizedCrop (area share ``smallest`` to 1, ratio 3/4 to 4/3, bicubic, antialiased) to the own size, and a flip.

    Each picture by its key. Resampling is two small matrix products per picture, so that a batch costs milliseconds.
    """
    height, width = images_BCHW.shape[2:]
    top_B, left_B, h_B, w_B = _windows(keys_B, height, width, smallest)
    down_BSH, across_BSW = _taps(top_B, h_B, height), _taps(left_B, w_B, width)
    flips_B = uniform(keys_B, 1, stream=_CROP_STREAM + 1)[:, 0] < 0.5
    across_BSW = torch.where(flips_B[:, None, None], across_BSW.flip(1), across_BSW)
    resampled = down_BSH[:, None] @ images_BCHW.float() @ across_BSW.transpose(1, 2)[:, None]
    return resampled.round().clamp(0, 255).to(torch.uint8)


def _windows(keys_B: Tensor, height: int, width: int, smallest: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width of each crop: the first of ten tries that fits, else the whole picture."""
    draw_BA4 = uniform(keys_B, 4 * _TRIES, stream=_CROP_STREAM).view(len(keys_B), _TRIES, 4).double()
    area = height * width * (smallest + (1 - smallest) * draw_BA4[..., 0])
    aspect = torch.exp(math.log(3 / 4) + math.log(16 / 9) * draw_BA4[..., 1])
    w_BA, h_BA = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits_BA = (w_BA <= width) & (h_BA <= height)
    first_B1 = fits_BA.int().argmax(dim=1, keepdim=True)
    found_B = fits_BA.any(dim=1)
    h_B = torch.where(found_B, h_BA.gather(1, first_B1)[:, 0], height)
    w_B = torch.where(found_B, w_BA.gather(1, first_B1)[:, 0], width)
    top_B = (draw_BA4[..., 2].gather(1, first_B1)[:, 0] * (height - h_B + 1)).floor()
    left_B = (draw_BA4[..., 3].gather(1, first_B1)[:, 0] * (width - w_B + 1)).floor()
    return top_B, left_B, h_B, w_B


def _taps(start_B: Tensor, length_B: Tensor, side: int) -> Tensor:
    """Weights ``[B, side, side]`` that enlarge ``length`` pixels from ``start`` to ``side``.

    Keys's cubic with a = -0.5, cut and renormalised at the crop's border, as antialiased resampling does when it enlarges.
    """
    place_S1 = torch.arange(side, dtype=torch.float64)[:, None] + 0.5
    pixel = torch.arange(side, dtype=torch.float64) + 0.5
    start_B11, length_B11 = start_B[:, None, None], length_B[:, None, None]
    away = (pixel - (start_B11 + place_S1 * length_B11 / side)).abs()
    near = (1.5 * away - 2.5) * away * away + 1
    far = ((-0.5 * away + 2.5) * away - 4) * away + 2
    weights = torch.where(away < 1, near, torch.where(away < 2, far, 0.0))
    inside = (pixel > start_B11) & (pixel < start_B11 + length_B11)
    weights = weights * inside
    return (weights / weights.sum(dim=2, keepdim=True)).float()


def _bytes(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
