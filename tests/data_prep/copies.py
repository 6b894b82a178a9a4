"""Copies of pictures as they turn up in collections: re-encoded, resized, brightened, cut, grey."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageEnhance

from mae_vlm.data.sources.scenes import Scenes


def scenes(count: int, size: tuple[int, int] = (96, 112), seed: int = 0) -> list[Image.Image]:
    """Distinct generated pictures."""
    source = Scenes(count, size, seed)
    return [Image.fromarray(source[i].image.permute(1, 2, 0).numpy()) for i in range(count)]


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.atleast_3d(np.asarray(image)).copy()).permute(2, 0, 1)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    return Image.open(io.BytesIO(jpeg_bytes(image, quality)))


def jpeg_bytes(image: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def resized(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


def cut(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    width, height = image.size
    return image.crop((round(left * width), round(top * height), width - round(right * width), height - round(bottom * height)))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG quality 50": lambda image: jpeg(image, 50),
    "JPEG quality 95": lambda image: jpeg(image, 95),
    "half the size": lambda image: resized(image, 0.5),
    "half as large again": lambda image: resized(image, 1.5),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.85),
    "more contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.15),
    "less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.85),
    "cut at the left and top": lambda image: cut(image, 0.03, 0.03, 0, 0),
    "cut at the right": lambda image: cut(image, 0, 0, 0.03, 0),
    "cut all around": lambda image: cut(image, 0.03, 0.03, 0.03, 0.03),
    "grey": lambda image: image.convert("L"),
    "cut, smaller, brighter and compressed": lambda image: jpeg(
        ImageEnhance.Brightness(resized(cut(image, 0.02, 0, 0.02, 0.01), 0.7)).enhance(1.1), 60
    ),
}
