"""Any convolutional network of timm as the image tower.

Letters: B pictures, C channels, H, W pixels, h, w places of the last map down and across, N = h * w of them, D width.
"""

from __future__ import annotations

import difflib
from typing import Any

import timm
import torch
from torch import Tensor

from mae_vlm.encoders.arithmetic import products
from mae_vlm.encoders.image import ImageTower
from mae_vlm.encoders.vit import per_channel
from mae_vlm.types import Encoded, TokenSpace, sides


class Cnn(ImageTower):
    """A timm CNN by ``name``, such as resnet50: the places of its last map are the tokens, its stride is their patch.

    With random weights and timm's own parameter names under ``cnn``. It sees pictures whole: objectives of hidden patches need a ViT.
    BatchNorm is as in timm: over the pictures of a process, unless ``trainer.sync_batchnorm`` is set.

    Args:
        name: a timm model whose last map has channels first.
        stride: pixels that a place of the map stands for: the network ends where its map has it, for small pictures or small things in
            them; None takes the whole network.
        image_size: pixels, one number or (height, width), multiples of the network's stride (32 for most).
        channels: channels of a picture.
        drop_path: while training, the share of pictures that skip a block, where the network has that.
        mean, std: per channel, of pictures scaled to [0, 1]; None means ImageNet's for 3 channels, else 0.5.

    Raises:
        ValueError: unknown name, a network without such a map, or a size that its stride does not divide.
    """

    def __init__(
        self,
        name: str = "resnet50",
        image_size: int | tuple[int, int] | None = None,
        channels: int | None = None,
        drop_path: float = 0.0,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        stride: int | None = None,
    ) -> None:
        super().__init__()
        height, width = sides(224 if image_size is None else image_size)
        channels = 3 if channels is None else channels
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path {drop_path} given, allowed is a share from 0 to below 1, as 0.1")
        self.architecture = name
        options = {"in_chans": channels} | ({"drop_path_rate": drop_path} if drop_path else {})
        self.cnn = _build(name, options)
        steps, self._width = _strides(self.cnn, name), int(self.cnn.num_features)
        self._last = None if stride in (None, steps[-1]) else _cut(self.cnn, name, steps, stride)
        if self._last is not None:
            self._width = int(self.cnn.feature_info[self._last]["num_chs"])
        self.space = TokenSpace(height, width, stride or steps[-1], channels)
        self._check_map()
        self.register_buffer("mean", per_channel(mean, channels, timm.data.IMAGENET_DEFAULT_MEAN, "mean"), persistent=False)
        self.register_buffer("std", per_channel(std, channels, timm.data.IMAGENET_DEFAULT_STD, "std"), persistent=False)

    @property
    def width(self) -> int:
        return self._width

    def full(self, images_BCHW: Tensor) -> Encoded:
        """The last map as tokens ``[B, h * w, D]``, row by row; no norm follows it, so that ``unnormed_BND`` are the same."""
        dtype = next(self.cnn.parameters()).dtype  # differs only with whole weights in bf16
        images_BCHW = images_BCHW.to(dtype, memory_format=torch.channels_last)  # the order of memory that convolutions are quick in
        tokens_BND: Tensor = self._map(images_BCHW).flatten(2).transpose(1, 2)
        return Encoded(tokens_BND, 0, tokens_BND)

    def flops(self, patches: int) -> int:
        return sum(self._products)

    def first_flops(self, patches: int) -> int:
        return self._products[0]

    def _map(self, images_BCHW: Tensor) -> Tensor:
        if self._last is None:
            whole_BDhw: Tensor = self.cnn.forward_features(images_BCHW)
            return whole_BDhw
        cut: list[Tensor] = self.cnn.forward_intermediates(images_BCHW, indices=[self._last], stop_early=True, intermediates_only=True)
        return cut[0]

    def _check_map(self) -> None:
        """One pass of a black picture: what the network says of its last map must be so; its arithmetic is counted on the way.

        Weights behind that map, such as a classifier's norm, are frozen: DDP would wait for their gradients.
        """
        space = self.space
        wanted = [1, self._width, space.rows, space.columns]
        try:
            with torch.enable_grad():
                self._products, map_1Dhw = products(self.cnn, self._map, (1, space.channels, space.height, space.width))
            found = [*map_1Dhw.shape]
        except (AssertionError, AttributeError, RuntimeError) as problem:
            raise ValueError(f"{self.architecture} does not take {space.height} x {space.width} pixels: {_line(problem)}") from problem
        if found != wanted:
            raise ValueError(
                f"{self.architecture} gives features {found}, its stride {space.patch} promises {wanted}; choose a CNN such as resnet50"
            )
        weights = list(self.cnn.parameters())
        for weight, gradient in zip(weights, torch.autograd.grad(map_1Dhw.sum(), weights, allow_unused=True), strict=True):
            weight.requires_grad_(gradient is not None)


def _build(name: str, arguments: dict[str, Any]) -> Any:
    """A timm model without pooling and classifier, for its ``forward_features`` alone."""
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "see timm.list_models('resnet*')"
        raise ValueError(f"timm has no model named {name!r}; {hint}")
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, global_pool="", **arguments)
    except (AssertionError, TypeError, RuntimeError, ValueError) as problem:
        raise ValueError(f"timm cannot build {name} with {arguments}: {_line(problem)}") from problem


def _line(problem: Exception) -> str:
    return " ".join(str(problem).split())


def _strides(cnn: Any, name: str) -> list[int]:
    """Of the maps that a network tells of, from the first to the last."""
    try:
        told = [one["reduction"] for one in cnn.feature_info]
    except (AttributeError, TypeError, KeyError):
        told = []
    if not told or not isinstance(told[-1], int) or hasattr(cnn, "pos_embed") or not hasattr(cnn, "forward_features"):
        raise ValueError(f"timm model {name} is no CNN that tells its stride; choose one such as resnet50, or for a ViT the encoder Vit")
    return told


def _cut(cnn: Any, name: str, steps: list[int], stride: int | None) -> int:
    """The number of a network's last map of a stride; what comes after it is taken away."""
    if stride not in steps:
        raise ValueError(f"stride {stride} given, the maps of {name} have {', '.join(map(str, dict.fromkeys(steps)))}")
    if not hasattr(cnn, "prune_intermediate_layers"):
        raise ValueError(f"stride {stride} given, but timm cannot cut {name}; leave it out, or choose a CNN such as resnet50")
    last = len(steps) - 1 - steps[::-1].index(stride)
    cnn.prune_intermediate_layers([last], prune_norm=True)
    return last
