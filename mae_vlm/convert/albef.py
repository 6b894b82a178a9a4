"""ALBEF's .pth: its picture tower, whose names are those of the MAE paper's code under ``visual_encoder``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mae_vlm.convert import facebook, tensors
from mae_vlm.convert.clip import MEAN, STD
from mae_vlm.convert.found import Found

_PREFIX = "visual_encoder."


def is_one(content: dict[str, Any]) -> bool:
    """Whether a pickle of tensors is one of these."""
    weights = content.get("model", content)
    return isinstance(weights, dict) and f"{_PREFIX}patch_embed.proj.weight" in weights


def read(content: dict[str, Any], file: Path) -> Found:
    """What such a file holds of pictures; its layers of words, momentum copies and queues are listed.

    Raises:
        ValueError: weights of another architecture, or a partial file.
    """
    weights = tensors.of_dict(content.get("model", content), file)
    tower = {name.removeprefix(_PREFIX): value for name, value in weights.items() if name.startswith(_PREFIX)}
    if not facebook.is_one(tower):
        raise ValueError(f"{file} holds no whole picture tower of ALBEF; a partial file?")
    found = facebook.read({"model": tower}, file)
    encoder = found.encoder | {"init_args": found.encoder["init_args"] | {"positions": "learned", "mean": list(MEAN), "std": list(STD)}}
    left = [name for name in weights if not name.startswith(_PREFIX)]
    return replace(found, kind="ALBEF", encoder=encoder, unused=(*found.unused, *left))
