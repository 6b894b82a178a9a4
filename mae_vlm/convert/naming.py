"""Weights by one library's names turned into another's: rules by pattern, and query, key and value as one matrix."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import Tensor

_PART = re.compile(r"(.*\.attn)\.([qkv])\.(weight|bias)")

Rules = Iterable[tuple[str, str]]


def renamed(weights: dict[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """Each weight under the name that the first rule makes of it whose pattern begins its own; others keep theirs."""
    patterns = [(re.compile(pattern), name) for pattern, name in rules]

    def name_of(there: str) -> str:
        return next((pattern.sub(name, there, count=1) for pattern, name in patterns if pattern.match(there)), there)

    return {name_of(name): value for name, value in weights.items()}


def fused(weights: dict[str, Tensor], place: object) -> dict[str, Tensor]:
    """``attn.q``, ``attn.k`` and ``attn.v`` joined to timm's ``attn.qkv``, weights and biases.

    Raises:
        ValueError: one of three is missing.
    """
    found: dict[str, Tensor] = {}
    parts: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, value in weights.items():
        if match := _PART.fullmatch(name):
            parts.setdefault((match[1], match[3]), {})[match[2]] = value
        else:
            found[name] = value
    for (layer, kind), three in parts.items():
        if missing := [part for part in "qkv" if part not in three]:
            raise ValueError(f"{place}: {layer} lacks the {kind} of its {missing[0]}; a partial file?")
        found[f"{layer}.qkv.{kind}"] = torch.cat([three[part] for part in "qkv"])
    return found


def unfused(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The opposite of :func:`fused`."""
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        layer, middle, kind = name.partition(".attn.qkv.")
        if middle:
            found |= {f"{layer}.attn.{part}.{kind}": third for part, third in zip("qkv", value.chunk(3), strict=True)}
        else:
            found[name] = value
    return found


def blocks(weights: dict[str, Tensor], stem: str = "blocks.") -> int:
    """How many layers are numbered after ``stem``."""
    return 1 + max(
        (int(name.removeprefix(stem).partition(".")[0]) for name in weights if re.match(re.escape(stem) + r"\d+\.", name)), default=-1
    )
