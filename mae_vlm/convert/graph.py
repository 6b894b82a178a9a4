"""An encoder, or an encoder with a head, as one graph: pictures in, named tensors out, nothing else of the run.

Letters: B pictures, C channels, H, W pixels, h, w patches down and across, N patches, T tokens, D width, L classes, M places.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from mae_vlm.convert import native, native_run
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.heads.base import Head
from mae_vlm.heads.classify import Classify
from mae_vlm.heads.dense import Dense
from mae_vlm.heads.parts.boxes import decode
from mae_vlm.heads.parts.points import places
from mae_vlm.heads.segment import Segment
from mae_vlm.hub.names import is_name
from mae_vlm.types import Batch


@dataclass(frozen=True)
class Graph:
    """What is exported.

    Attributes:
        module: takes pictures as float ``[B, C, H, W]`` from 0 to 1, gives a tuple of tensors.
        outputs: their names.
        encoder: for the sizes.
        sized: whether height and width may differ from the encoder's own, by whole patches.
        names: of classes, where it has any.
        head: of a fine-tuned run, which can measure the outputs; None of an encoder alone.
    """

    module: nn.Module
    outputs: tuple[str, ...]
    encoder: Vit
    sized: bool
    names: tuple[str, ...] = ()
    head: Head | None = None


def graph_of(source: str, weights: str = "raw", head: str | None = None) -> Graph:
    """The encoder of ``source``, or of a fine-tuned run the ``head``; its only one where none is named.

    Raises:
        ValueError: no such head, or one that is none of classes, segments or dense boxes.
    """
    found = native_run.read(source, weights)
    encoder = found.build()
    heads = {} if found.kind != native_run.OURS or is_name(source) else _heads(source, weights)
    if head is None and len(heads) > 1:
        raise ValueError(f"{source} has the heads {', '.join(heads)}; name one by --head, or none of them by --head encoder")
    if head is not None and head != "encoder" and head not in heads:
        raise ValueError(f"{source} has no head {head}; there are {', '.join(heads) or 'none'}, or --head encoder for the encoder alone")
    if head == "encoder" or not heads:
        return Graph(Pooled(encoder), ("features", "tokens"), encoder, _resizable(encoder))
    name = next(iter(heads)) if head is None else head
    return _with_head(_built(name, *heads[name], Towers(encoder)), encoder)


def _heads(source: str, weights: str) -> dict[str, tuple[dict[str, Any], dict[str, Tensor]]]:
    config, state = native.read(source, weights)
    stated = config["model"]["init_args"].get("heads") or {}
    parts = {name: f"heads.{name}." for name in stated}
    return {
        name: (one, {key.removeprefix(parts[name]): value for key, value in state.items() if key.startswith(parts[name])})
        for name, one in stated.items()
    }


def _built(name: str, stated: dict[str, Any], state: dict[str, Tensor], towers: Towers) -> Head:
    kinds = (Classify, Segment, Dense)
    kind = next((kind for kind in kinds if stated.get("class_path") == f"{kind.__module__}.{kind.__name__}"), None)
    if kind is None:
        allowed = ", ".join(kind.__name__ for kind in kinds)
        raise ValueError(
            f"head {name} is a {stated.get('class_path')}, which has no graph to export here; those of {allowed} have, and --head encoder"
        )
    options = dict(stated.get("init_args") or {})
    if isinstance(options.get("decoder"), dict):
        options["decoder"] = _decoder(options["decoder"])
    head: Head = kind(towers, **options)
    missing, unexpected = head.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise ValueError(f"head {name} does not fit its own config: missing {missing}, unexpected {unexpected}")
    return head.eval()


def _decoder(stated: dict[str, Any]) -> Any:
    """The decoder of a segmenter, of ours alone: a config must not name other code."""
    path, options = str(stated["class_path"]), dict(stated.get("init_args") or {})
    module, _, name = path.rpartition(".")
    if not module.startswith("mae_vlm.heads."):
        raise ValueError(f"decoder {path} is not part of mae_vlm")
    kind = getattr(import_module(module), name)
    return lambda towers, classes: kind(towers, classes, **options)


def _with_head(head: Head, encoder: Vit) -> Graph:
    towers = Towers(encoder)
    if isinstance(head, Classify):
        names = tuple(head.names or ())
        return Graph(Classified(encoder, head), ("logits",), encoder, _resizable(encoder), names, head)
    if isinstance(head, Segment):
        return Graph(Segmented(towers, head), ("logits",), encoder, False, tuple(head.names), head)
    assert isinstance(head, Dense)
    return Graph(Detected(towers, head), ("boxes", "scores"), encoder, False, tuple(head.names), head)


def _resizable(encoder: Vit) -> bool:
    """Whether its positions are a table over a grid, which can be stretched in the graph."""
    return isinstance(encoder.vit, VisionTransformer) and encoder.vit.pos_embed is not None


class Pooled(nn.Module):
    """``features`` ``[B, D]``, the mean of the normed patch tokens, and all normed ``tokens`` ``[B, T, D]``."""

    def __init__(self, encoder: Vit) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels_BCHW: Tensor) -> tuple[Tensor, ...]:
        tokens_BTD = self.encoder.vit.norm(unnormed(self.encoder, pixels_BCHW))
        return tokens_BTD[:, self.encoder.prefix :].mean(1), tokens_BTD


class Classified(nn.Module):
    """``logits`` ``[B, L]``."""

    def __init__(self, encoder: Vit, head: Classify) -> None:
        super().__init__()
        self.encoder, self.norm, self.linear = encoder, head.norm, head.linear

    def forward(self, pixels_BCHW: Tensor) -> tuple[Tensor, ...]:
        mean_BD = unnormed(self.encoder, pixels_BCHW)[:, self.encoder.prefix :].mean(1)
        return (self.linear(self.norm(mean_BD)),)


class Segmented(nn.Module):
    """``logits`` ``[B, L, H, W]``: of each class at every pixel; the answer is the highest."""

    def __init__(self, towers: Towers, head: Segment) -> None:
        super().__init__()
        self.towers, self.head = towers, head

    def forward(self, pixels_BCHW: Tensor) -> tuple[Tensor, ...]:
        logits_BLhw = self.head(_features(self.towers, pixels_BCHW))["logits"]
        return (functional.interpolate(logits_BLhw, size=pixels_BCHW.shape[-2:], mode="bilinear", align_corners=False),)


class Detected(nn.Module):
    """``boxes`` ``[B, M, 4]`` in pixels (left, top, right, bottom) and ``scores`` ``[B, M, L]`` of every place, overlaps and all."""

    def __init__(self, towers: Towers, head: Dense) -> None:
        super().__init__()
        self.towers, self.head = towers, head

    def forward(self, pixels_BCHW: Tensor) -> tuple[Tensor, ...]:
        answer = self.head(_features(self.towers, pixels_BCHW))
        centres_M2, side_M = places(self.head.levels, pixels_BCHW.device)
        scores_BML = (answer["classes"].sigmoid() * answer["quality"].sigmoid()[..., None]).sqrt()
        return decode(answer["boxes"], centres_M2, side_M), scores_BML


def _features(towers: Towers, pixels_BCHW: Tensor) -> Features:
    nobody_B = torch.zeros_like(pixels_BCHW[:, 0, 0, 0], dtype=torch.int64)  # len() would fix the number of pictures
    return Features(towers, Batch(pixels_BCHW, nobody_B, nobody_B == 0, nobody_B - 1))


def unnormed(encoder: Vit, pixels_BCHW: Tensor) -> Tensor:
    """All tokens ``[B, T, D]`` after the last block; positions are stretched to the pictures' grid where the encoder has a table."""
    images_BCHW, vit = encoder.normalise(pixels_BCHW), encoder.vit
    if not _resizable(encoder):
        return _of_fixed_size(encoder, images_BCHW)
    embedded_BDhw = vit.patch_embed.proj(images_BCHW)
    patches_BND = vit.patch_embed.norm(embedded_BDhw.flatten(2).transpose(1, 2))
    inside = 0 if vit.no_embed_class else encoder.prefix
    table_1DN = vit.pos_embed[:, inside:].transpose(1, 2).unflatten(2, (encoder.space.rows, encoder.space.columns))
    table_1DN = functional.interpolate(table_1DN, size=embedded_BDhw.shape[-2:], mode="bicubic", antialias=True, align_corners=False)
    patches_BND = patches_BND + table_1DN.flatten(2).transpose(1, 2)
    front = [token for token in (vit.cls_token, vit.reg_token) if token is not None]
    if front:
        prefix_1ID = torch.cat(front, dim=1) + (vit.pos_embed[:, :inside] if inside else 0.0)
        patches_BND = torch.cat([prefix_1ID.expand(patches_BND.shape[0], -1, -1), patches_BND], dim=1)
    tokens_BTD: Tensor = vit.norm_pre(patches_BND)
    for block in vit.blocks:
        tokens_BTD = block(tokens_BTD)
    return tokens_BTD


def _of_fixed_size(encoder: Vit, images_BCHW: Tensor) -> Tensor:
    """The same of an encoder whose positions rotate, or that has none."""
    patch_tokens, prefix = encoder.vit.forward_intermediates(
        images_BCHW, indices=1, output_fmt="NLC", norm=False, return_prefix_tokens=True, intermediates_only=True
    )[0]
    return torch.cat([prefix, patch_tokens], dim=1) if encoder.prefix else patch_tokens
