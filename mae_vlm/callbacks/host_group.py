"""What processes tell each other beside training, on the host: no device waits for it."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist

_GROUPS: dict[int, Any] = {}


def host_group() -> Any:
    """The group of all processes over gloo, made once for a process group; all processes ask for it first at the same place."""
    world = id(dist.group.WORLD)
    if world not in _GROUPS:
        _GROUPS.clear()
        _GROUPS[world] = dist.new_group(backend="gloo")
    return _GROUPS[world]


def first_says(trainer: pl.Trainer, value: bool) -> bool:
    """What the first process says; every process must ask at the same step."""
    if trainer.world_size == 1:
        return value
    told = torch.tensor([int(value)])
    dist.broadcast(told, 0, group=host_group())
    return bool(told.item())
