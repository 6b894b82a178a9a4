"""An encoder built from any arguments of a timm ViT: what weights from elsewhere were trained with, as plain data."""

from __future__ import annotations

from inspect import signature
from typing import Any

from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from mae_vlm.encoders.init import mae_init
from mae_vlm.encoders.vit import IMAGENET_MEAN, IMAGENET_STD, SIZED, Vit, build_vit, named_arguments, per_channel
from mae_vlm.types import TokenSpace, sides

PRE_NORMED = "vit_base_patch16_clip_224"  # the timm architecture whose norms add 1e-5; its own first norm can be left out
_OURS = ("self", "img_size", "in_chans", "num_classes", "global_pool", "fc_norm", "use_fc_norm", "drop_path_rate", "device", "dtype")
_ALLOWED = ({*signature(VisionTransformer).parameters} | {*signature(Eva).parameters}) - {*_OURS}


class TimmVit(Vit):
    """A timm ViT by ``name``, with further ``arguments`` of its class and an epsilon of its norms; otherwise a :class:`Vit`.

    Args:
        name: a timm model of the VisionTransformer or the Eva family.
        arguments: options of that class that win over the model's own, as ``{embed_dim: 384, act_layer: quick_gelu, pre_norm: true}``.
        norm_eps: what every layer norm adds to the variance; None is the model's own. timm's folders cannot hold it.
        image_size, channels, class_tokens, drop_path, mean, std, checkpoint_blocks: see :class:`Vit`.
        positions: ``learned``, or ``fixed``: whatever table the weights bring is kept.

    Raises:
        ValueError: unknown name or argument, or values that timm refuses.
    """

    def __init__(
        self,
        name: str = SIZED,
        arguments: dict[str, Any] | None = None,
        norm_eps: float | None = None,
        image_size: int | tuple[int, int] | None = None,
        channels: int | None = None,
        class_tokens: int = 1,
        positions: str = "learned",
        drop_path: float = 0.0,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        checkpoint_blocks: bool = False,
    ) -> None:
        nn.Module.__init__(self)  # sizes come from timm's arguments, none from Vit's
        if positions not in ("learned", "fixed"):
            raise ValueError(f"positions {positions!r} given, allowed are learned and fixed")
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path {drop_path} given, allowed is a share from 0 to below 1, as 0.1")
        height, width = sides(224 if image_size is None else image_size)
        channels = 3 if channels is None else channels
        self.architecture = name
        self.model_args = {"img_size": (height, width), "in_chans": channels, "num_classes": 0, "global_pool": "avg"}
        self.model_args |= named_arguments(name, 1, 0) | checked(arguments or {})
        self.vit = build_vit(name, self.model_args | ({"drop_path_rate": drop_path} if drop_path else {}))
        self.vit.set_grad_checkpointing(checkpoint_blocks)
        self.space = TokenSpace(height, width, self.vit.patch_embed.patch_size[0], channels)
        self.class_tokens = 0 if self.vit.cls_token is None else class_tokens
        self.norm_eps = norm_eps
        if norm_eps is not None:
            set_eps(self, norm_eps)
        mae_init(self.vit)
        if positions == "fixed" and self.vit.pos_embed is not None:
            self.vit.pos_embed.requires_grad = False
        self.register_buffer("mean", per_channel(mean, channels, IMAGENET_MEAN, "mean"), persistent=False)
        self.register_buffer("std", per_channel(std, channels, IMAGENET_STD, "std"), persistent=False)


def checked(arguments: dict[str, Any]) -> dict[str, Any]:
    """The same, once each is an option of timm's class and plain data: a file must not name files or classes.

    Raises:
        ValueError: one is not.
    """
    for name, value in arguments.items():
        if name not in _ALLOWED or not _plain(value):
            raise ValueError(f"timm argument {name}: {value!r} is not one of a plain ViT as plain data; leave it out")
    return dict(arguments)


def own_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """Of the ``model_args`` of a timm folder those that are not said otherwise: picture size, channels and head are."""
    return checked({name: value for name, value in arguments.items() if name not in _OURS})


def set_eps(module: nn.Module, eps: float) -> None:
    """Let every layer norm add ``eps``."""
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = eps


def eps_of(module: nn.Module) -> list[float]:
    """What its layer norms add, each value once."""
    return sorted({part.eps for part in module.modules() if isinstance(part, nn.LayerNorm)})


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
