"""The run's data as Lightning's batch-size finder can scale it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from lightning import LightningDataModule

from mae_vlm.data.module import Data
from mae_vlm.types import Batch


class TimeIsUp(Exception):
    """The next size would take longer than there is time for."""


class Scaled(LightningDataModule):
    """``data`` with a ``batch_size`` that takes effect when it is set, though never above ``most``, and whose steps are timed.

    Lightning's finder sets the attribute and asks for a new loader; :class:`Data` has decided its order by then. Here ``batch_size`` is
    what one process takes at a time. Setting a larger one raises :class:`TimeIsUp` when that trial would end after ``seconds``.
    """

    def __init__(self, data: Data, most: int, seconds: float | None = None) -> None:
        super().__init__()
        self.data, self.most, self.limit = data, most, seconds
        self.asked: dict[int, list[float]] = {}  # size -> when its batches were asked for
        self.failed: set[int] = set()
        self._began = time.monotonic()

    @property
    def batch_size(self) -> int:
        """Pictures that one process takes at a time."""
        assert self.data.batch_size is not None
        return self.data.batch_size

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        now = self.data.batch_size or 0
        tried = bool(self.asked.get(now))
        if size < now and tried:
            self.failed.add(now)
        elif size > now and tried and self.limit is not None:
            took, spent = time.monotonic() - self.asked[now][0], time.monotonic() - self._began
            if spent + took * size / now > self.limit:
                raise TimeIsUp
        self.data.batch_size, self.data._order = min(size, self.most), None

    def train_dataloader(self) -> Any:
        self.data.trainer = self.trainer
        return _Timed(self.data.train_dataloader(), self.asked.setdefault(self.batch_size, []))

    def val_dataloader(self) -> list[Any]:
        return []

    def rates(self) -> dict[int, float]:
        """Pictures per second of each size that passed, without its first step, which sets up."""
        passed = {size: times for size, times in self.asked.items() if size not in self.failed and len(times) > 2}
        return {size: size / median(here - before for before, here in pairwise(times[1:])) for size, times in passed.items()}


class _Timed:
    """A loader that notes when each batch was asked for: when the device was done with the one before."""

    def __init__(self, loader: Any, asked: list[float]) -> None:
        self.loader, self.asked = loader, asked
        self.dataset, self.sampler = loader.dataset, loader.sampler

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self.loader)
        while True:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.asked.append(time.monotonic())
            try:
                yield next(batches)
            except StopIteration:
                return
