"""The averaged weights of a run, as its checkpoints keep them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor


def averaged(content: dict[str, Any], place: Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint's ``content`` with the averaged weights in place of the raw ones, in the raw ones' type.

    Buffers, and weights that were not trained, are those of the run.

    Raises:
        ValueError: the run averaged nothing; ``place`` is named.
    """
    kept = (content.get("callbacks") or {}).get("Ema") or {}  # what callbacks.ema.Ema.state_dict wrote
    weights: dict[str, Tensor] | None = kept.get("weights")
    state: dict[str, Tensor] = content["state_dict"]
    if not weights:
        raise ValueError(f"{place} holds no averaged weights; train with --ema.decay 0.999, or take the raw ones (weights raw)")
    strange = [name for name in weights if name not in state or state[name].shape != weights[name].shape]
    if strange:
        raise ValueError(f"{place} is damaged: {len(strange)} averaged weights have no place in it, such as {strange[0]}")
    return state | {name: value.to(state[name].dtype) for name, value in weights.items()}


def chosen(content: dict[str, Any], weights: str, place: Path) -> dict[str, Tensor]:
    """The raw or the averaged (ema) state dict of a checkpoint.

    Raises:
        ValueError: another word, or no average there.
    """
    if weights not in ("raw", "ema"):
        raise ValueError(f"weights {weights!r} given, allowed are raw and ema")
    raw: dict[str, Tensor] = content["state_dict"]
    return raw if weights == "raw" else averaged(content, place)
