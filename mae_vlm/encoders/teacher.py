"""A moving average of the towers, which objectives may learn from."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


@runtime_checkable
class Averaging(Protocol):
    """An objective that keeps moving averages of its own layers too: each beside what it follows."""

    @property
    def averages(self) -> tuple[tuple[nn.Module, nn.Module], ...]: ...


def copied(towers: M) -> M:
    """A teacher: the same weights, which nobody trains and which never drop anything."""
    teacher = deepcopy(towers)
    teacher.requires_grad_(False)
    return teacher.eval()


def follow_all(teacher: nn.Module, towers: nn.Module, objectives: Iterable[object], decay: float) -> None:
    """One step of the towers' average and of those that objectives keep."""
    follow(teacher, towers, decay)
    for slow, fast in (pair for part in objectives if isinstance(part, Averaging) for pair in part.averages):
        follow(slow, fast, decay)


@torch.no_grad()
def follow(teacher: nn.Module, towers: nn.Module, decay: float) -> None:
    """One step of the average: the teacher keeps ``decay`` of itself (ALBEF and MoCo: .995 to .999)."""
    for slow, fast in zip(teacher.parameters(), towers.parameters(), strict=True):
        slow.lerp_(fast.detach(), 1 - decay)
    for own, theirs in zip(teacher.buffers(), towers.buffers(), strict=True):  # a batch norm's running means: it never measures its own
        own.copy_(theirs)
