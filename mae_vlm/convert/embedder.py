"""A trained encoder, ready for pictures: paths, PIL pictures or tensors in, features out."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mae_vlm.data.decode import decode, from_pil
from mae_vlm.data.transforms import Resize
from mae_vlm.encoders.image import ImageTower


class Embedder:
    """A trained encoder, ready for pictures."""

    def __init__(self, encoder: ImageTower) -> None:
        self.encoder = encoder
        self._resize = Resize((encoder.space.height, encoder.space.width))

    @torch.no_grad()
    def encode(self, images: Any, pool: str = "patches", batch_size: int = 64) -> Tensor:
        """Features of pictures, float32.

        Args:
            images: one picture or an iterable of them: paths, PIL pictures, or tensors ``[C, H, W]`` (uint8 0 to 255, or
                float 0 to 1); a tensor ``[B, C, H, W]`` is a batch. Each is resized (short side, bicubic) and centre-cropped to the
                encoder's size, then normalised with the mean and deviation the encoder was trained with: don't normalise.
            pool: ``patches``, the mean of the normed patch tokens, ``[B, D]``; ``class``, the mean of the class tokens,
                ``[B, D]``; ``none``, all tokens, ``[B, T, D]``, class and register tokens first.
            batch_size: pictures per forward pass.

        Raises:
            ValueError: an unknown ``pool``, a picture that cannot be read, or one of another number of channels.
        """
        if pool not in ("patches", "class", "none"):
            raise ValueError(f"pool {pool!r} given, allowed are patches, class and none")
        if pool == "class" and not self.encoder.class_tokens:
            raise ValueError("pool 'class' given, but this encoder has no class token; use patches")
        waiting, parts = iter(_several(images)), []
        while some := [self.prepare(image) for image in islice(waiting, batch_size)]:
            parts.append(self._encode(torch.stack(some), pool))
        return torch.cat(parts) if parts else torch.zeros(0, self.encoder.width)

    def _encode(self, images_BCHW: Tensor, pool: str) -> Tensor:
        device = self.encoder.mean.device
        encoded = self.encoder.full(self.encoder.normalise(images_BCHW.to(device)))
        if pool == "none":
            return encoded.tokens_BTD.float()
        chosen = encoded.patches_BND if pool == "patches" else encoded.tokens_BTD[:, : self.encoder.class_tokens]
        return chosen.mean(dim=1).float()

    def prepare(self, image: Any) -> Tensor:
        """One picture, also an encoded file's bytes, as uint8 ``[C, H, W]`` of the encoder's size."""
        channels = self.encoder.space.channels
        if isinstance(image, Tensor):
            pixels = image if image.dtype == torch.uint8 else (image.clamp(0, 1) * 255).round().to(torch.uint8)
            if pixels.ndim != 3 or len(pixels) != channels:
                raise ValueError(f"a picture of shape {tuple(image.shape)} given, this encoder takes [{channels}, height, width]")
            return self._resize(pixels)
        if channels not in (1, 3):
            raise ValueError(
                f"this encoder takes {channels} channels, which files and PIL pictures don't hold; give tensors [{channels}, height, width]"
            )
        if isinstance(image, bytes):
            return self._resize(decode(image, channels))
        if isinstance(image, str | Path):
            return self._resize(decode(Path(image).read_bytes(), channels, name=str(image)))
        return self._resize(from_pil(image, channels))


def _several(images: Any) -> Iterable[Any]:
    single = isinstance(images, str | Path) or (isinstance(images, Tensor) and images.ndim == 3) or not isinstance(images, Iterable)
    return [images] if single else images
