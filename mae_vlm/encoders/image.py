"""The contract of an image tower.

Letters: B pictures, C channels, H, W pixels, N patches, K visible patches, P numbers in a patch, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from mae_vlm.tokens.patchify import patchify
from mae_vlm.types import Encoded, TokenSpace


class ImageTower(nn.Module, ABC):
    """Pictures to features, on a grid of patches.

    Attributes:
        architecture: its name in timm, for messages.
        space: the grid; one token stands for each of its patches, whatever else it has seen.
        class_tokens: among the ``prefix`` tokens in front of the patches.
        masks: whether it can look at the visible patches alone.
        mean, std: of pictures scaled to [0, 1], ``[1, C, 1, 1]``.
        vit: the transformer, where it is a plain one, for parts that look into its blocks.
    """

    mean: Tensor
    std: Tensor
    space: TokenSpace
    architecture: str
    class_tokens: int = 0
    masks: bool = False
    vit: Any

    def __getattr__(self, name: str) -> Any:
        if name == "vit" and "vit" not in self.__dict__.get("_modules", {}):  # told to whoever builds a part that needs its blocks
            raise ValueError(f"this needs a plain ViT, whose blocks it looks into; {type(self).__name__} is none: set model.encoder to Vit")
        return super().__getattr__(name)

    @property
    @abstractmethod
    def width(self) -> int:
        """Numbers per token (D)."""

    @property
    def prefix(self) -> int:
        """Class and register tokens in front of the patches."""
        return 0

    @property
    def last_norm(self) -> nn.Module | None:
        """The norm between ``unnormed_BND`` and the tokens, where there is one."""
        return None

    def normalise(self, images_BCHW: Tensor) -> Tensor:
        """uint8 (0 to 255), uint16 (0 to 65,535) or float (0 to 1) pictures to zero mean and unit deviation.

        In the weights' precision, at least float32.
        """
        dtype = torch.promote_types(self.mean.dtype, torch.float32)
        scale = {torch.uint8: 255.0, torch.uint16: 65535.0}.get(images_BCHW.dtype, 1.0)
        return (images_BCHW.to(dtype) / scale - self.mean.to(dtype)) / self.std.to(dtype)

    def patchify(self, images_BCHW: Tensor) -> Tensor:
        """Normalised pictures to patches ``[B, N, P]``."""
        return patchify(images_BCHW, self.space)

    @abstractmethod
    def full(self, images_BCHW: Tensor) -> Encoded:
        """Features of whole normalised pictures; ``unnormed_BND`` are always there."""

    def visible(self, patches_BNP: Tensor, keep_BK: Tensor) -> Encoded:
        """Features of the patches ``keep_BK`` alone, of the patchified, normalised pictures ``patches_BNP``.

        Raises:
            ValueError: it cannot (``masks`` is False).
        """
        raise ValueError(f"{type(self).__name__} cannot look at the visible patches alone; set model.encoder to Vit")

    @abstractmethod
    def flops(self, patches: int) -> int:
        """Operations per picture, forward, on so many of its patches."""

    @abstractmethod
    def first_flops(self, patches: int) -> int:
        """Those of its first layer, whose input needs no gradient."""
