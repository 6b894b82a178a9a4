"""A moving average of the towers, which objectives may learn from."""

from __future__ import annotations

from copy import deepcopy

import torch

from mae_vlm.encoders.towers import Towers


def copied(towers: Towers) -> Towers:
    """A teacher: the same weights, which nobody trains and which never drop anything."""
    teacher = deepcopy(towers)
    teacher.requires_grad_(False)
    return teacher


@torch.no_grad()
def follow(teacher: Towers, towers: Towers, decay: float) -> None:
    """One step of the average: the teacher keeps ``decay`` of itself (ALBEF and MoCo: .995 to .999)."""
    for slow, fast in zip(teacher.parameters(), towers.parameters(), strict=True):
        slow.lerp_(fast.detach(), 1 - decay)
    for own, theirs in zip(teacher.buffers(), towers.buffers(), strict=True):  # a batch norm's running means: it never measures its own
        own.copy_(theirs)
