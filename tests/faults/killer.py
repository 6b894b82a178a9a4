"""A callback that harms its own run, for real, at a given moment. Named in a test's command line by its class path."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback


class Harm(Callback):
    """Sends ``number`` to this process when ``step`` optimizer steps are done (``where`` train), or in the validation after them (val).

    Each harm is done once: it leaves ``mark`` behind, and a resumed run goes on.
    """

    def __init__(self, mark: str, step: int, number: int = 9, where: str = "train", rank: int = 0) -> None:
        self.mark, self.step, self.number, self.where, self.rank = Path(mark), step, number, where, rank

    def on_train_batch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if self.where == "train":
            self._harm(trainer)

    def on_validation_batch_start(self, trainer: pl.Trainer, *arguments: Any, **named: Any) -> None:
        if self.where == "val":
            self._harm(trainer)

    def _harm(self, trainer: pl.Trainer) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.rank and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), self.number)


class Fail(Callback):
    """Raises on one process."""

    def __init__(self, step: int, rank: int = 1) -> None:
        self.step, self.rank = step, rank

    def on_train_batch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            raise RuntimeError("the reason of rank 1")


class Jitter(Callback):
    """Adds noise from torch's own generator to every gradient, as dropout would."""

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        for weight in pl_module.parameters():
            if weight.grad is not None:
                weight.grad.add_(torch.randn_like(weight.grad), alpha=1e-3)
