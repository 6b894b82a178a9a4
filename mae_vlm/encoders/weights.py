"""Trained weights into an encoder that may see pictures of another size."""

from __future__ import annotations

from typing import NamedTuple

from timm.layers import resample_abs_pos_embed
from torch import Tensor

from mae_vlm.encoders.image import ImageTower
from mae_vlm.encoders.lora import is_adapter, placed
from mae_vlm.encoders.towers import Towers


class Filled(NamedTuple):
    """What became of a state dict: what of the encoder it lacked, what it had too many, and how positions were resampled, if they were."""

    missing: list[str]
    unexpected: list[str]
    resampled: str = ""


def fill_words(towers: Towers, weights: dict[str, Tensor]) -> Filled:
    """Copy the ``weights`` of a run's text and fusion towers and their shared space (``text.``, ``fusion.``, ``joint.``) into these towers.

    Raises:
        ValueError: one is of another size, with both sizes.
    """
    own = {name: value for name, value in towers.state_dict().items() if not name.startswith("image.")}
    there = {name: value for name, value in weights.items() if not name.startswith("image.")}
    for name in own.keys() & there.keys():
        if own[name].shape != there[name].shape:
            sizes = f"{name} is {[*there[name].shape]} there and {[*own[name].shape]} here"
            raise ValueError(f"the weights don't fit the towers of words: {sizes}; leave model.text and model.fusion open")
    towers.load_state_dict({name: there[name] for name in own.keys() & there.keys()}, strict=False)
    return Filled(sorted(own.keys() - there.keys()), sorted(there.keys() - own.keys()))


def fill(encoder: ImageTower, weights: dict[str, Tensor], grid: tuple[int, int]) -> Filled:
    """Copy ``weights`` (names of ``encoder.state_dict()``), trained on ``grid`` (rows, columns of patches), into the encoder.

    Positions of another grid are resampled bicubically in float32 (timm), class and register tokens kept. Adapters that the encoder may
    have (``mae_vlm.encoders.lora``) stay as they are, and the weights below them are filled.

    Raises:
        ValueError: none has a place, or one is of another size, with both sizes.
    """
    own = encoder.state_dict()
    weights = placed(weights, own)
    now = (encoder.space.rows, encoder.space.columns)
    resampled = ""
    table = weights.get("vit.pos_embed")
    if table is not None and "vit.pos_embed" in own and grid != now:
        prefix = 0 if encoder.vit.no_embed_class else encoder.prefix
        weights["vit.pos_embed"] = resample_abs_pos_embed(table, list(now), list(grid), num_prefix_tokens=prefix)
        resampled = f"positions resampled from {grid[0]} x {grid[1]} to {now[0]} x {now[1]} patches"
    both = [name for name in weights if name in own]
    if not both:
        raise ValueError(f"none of the {len(weights)} weights has a place in this encoder, which has such as {next(iter(own))}")
    for name in both:
        if weights[name].shape != own[name].shape:
            there, here = [*weights[name].shape], [*own[name].shape]
            raise ValueError(f"the weights don't fit the encoder: {name} is {there} there and {here} here; leave the encoder's sizes open")
    missing, unexpected = encoder.load_state_dict(weights, strict=False)
    return Filled([name for name in missing if not is_adapter(name)], list(unexpected), resampled)
