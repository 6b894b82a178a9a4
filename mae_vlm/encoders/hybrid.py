"""A CNN and a ViT side by side, joined place by place.

Letters: B pictures, C channels, H, W pixels, h, w patches down and across, N = h * w patches, D width.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from mae_vlm.encoders.cnn import Cnn
from mae_vlm.encoders.image import ImageTower
from mae_vlm.encoders.vit import Vit
from mae_vlm.types import Encoded


class Hybrid(ImageTower):
    """Both see the whole picture; of each patch of the ViT a token of both is made: its features beside the CNN's at that place, projected.

    The CNN's last map is resampled to the ViT's grid (bilinear), so that a token still stands for a patch of the picture.

    Args:
        cnn: a timm CNN, and ``stride``, where it ends: see :class:`mae_vlm.encoders.cnn.Cnn`.
        width, depth, heads, patch: sizes of the ViT, see :class:`mae_vlm.encoders.vit.Vit`.
        name: a timm ViT instead.
        joined: numbers of a token (D); None takes the ViT's width.
        image_size, channels, mean, std: of both; drop_path, checkpoint_blocks: of the ViT.

    Raises:
        ValueError: one of the two cannot be built.
    """

    def __init__(
        self,
        cnn: str = "resnet18",
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        patch: int = 16,
        name: str | None = None,
        joined: int | None = None,
        image_size: int | tuple[int, int] | None = None,
        channels: int | None = None,
        drop_path: float = 0.0,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        checkpoint_blocks: bool = False,
        stride: int | None = None,
    ) -> None:
        super().__init__()
        if joined is not None and joined < 1:
            raise ValueError(f"joined {joined} given, allowed is 1 or more")
        # no class token: nobody would look at it
        self.transformer = Vit(
            name, width, depth, heads, patch, image_size=image_size, channels=channels, class_tokens=0, drop_path=drop_path,
            mean=mean, std=std, checkpoint_blocks=checkpoint_blocks,
        )  # fmt: skip
        self.network = Cnn(cnn, image_size, channels, 0.0, mean, std, stride)
        self.architecture, self.space = f"{cnn} beside {self.transformer.architecture}", self.transformer.space
        self._width = joined or self.transformer.width
        given = self.transformer.width + self.network.width
        self.project, self.norm = nn.Linear(given, self._width), nn.LayerNorm(self._width, eps=1e-6)
        nn.init.xavier_uniform_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        self.register_buffer("mean", self.transformer.mean.clone(), persistent=False)
        self.register_buffer("std", self.transformer.std.clone(), persistent=False)

    @property
    def width(self) -> int:
        return self._width

    @property
    def last_norm(self) -> nn.Module | None:
        return self.norm

    def full(self, images_BCHW: Tensor) -> Encoded:
        """Tokens of both after the final norm."""
        seen_BND, map_BND = self.transformer.full(images_BCHW).patches_BND, self.network.full(images_BCHW).patches_BND
        map_BDhw = rearrange(map_BND, "b (h w) d -> b d h w", h=self.network.space.rows)
        placed_BDhw = functional.interpolate(map_BDhw, size=(self.space.rows, self.space.columns), mode="bilinear", antialias=False)
        unnormed_BND: Tensor = self.project(torch.cat([seen_BND, placed_BDhw.flatten(2).transpose(1, 2)], dim=-1))
        return Encoded(self.norm(unnormed_BND), 0, unnormed_BND)

    def flops(self, patches: int) -> int:
        joining = 2 * self.space.patches * self.project.weight.numel()
        return self.transformer.flops(self.space.patches) + self.network.flops(patches) + joining

    def first_flops(self, patches: int) -> int:
        return self.transformer.first_flops(self.space.patches) + self.network.first_flops(patches)
