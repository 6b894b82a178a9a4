"""A callback that harms its own run, for real, at a given moment. Named in a test's command line by its class path."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from mae_vlm.encoders.features import Features
from mae_vlm.objectives.pixels import Pixels
from mae_vlm.types import Batch, Loss


class Harm(Callback):
    """Sends ``number`` to this process when ``step`` optimizer steps are done (``where`` train), or in the validation after them (val).

    Each harm is done once: it leaves ``mark`` behind, and a resumed run goes on.
    """

    def __init__(self, mark: str, step: int, number: int = 9, where: str = "train", rank: int = 0, group: bool = False) -> None:
        self.mark, self.step, self.number, self.where, self.rank, self.group = Path(mark), step, number, where, rank, group

    def on_train_batch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if self.where == "train":
            self._harm(trainer)

    def on_validation_batch_start(self, trainer: pl.Trainer, *arguments: Any, **named: Any) -> None:
        if self.where == "val":
            self._harm(trainer)

    def _harm(self, trainer: pl.Trainer) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.rank and not self.mark.exists():
            self.mark.touch()
            if self.group:
                os.killpg(0, self.number)
            else:
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


class PoisonPixels(Pixels):
    """Pixels whose loss is not a number while ``sick``."""

    sick = False

    def forward(self, features: Features, batch: Batch) -> Loss:
        loss = super().forward(features, batch)
        return Loss(loss.value * float("nan"), loss.logs) if self.sick and self.training else loss


class Poison(Callback):
    """Makes the loss of one process sick at the given steps, and sees that no process's weights or moments move there."""

    def __init__(self, steps: list[int], rank: int = 0) -> None:
        self.steps, self.rank, self.before = steps, rank, {}

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *arguments: Any) -> None:
        self.step = trainer.global_step
        pl_module.objectives["pixels"].sick = self.step in self.steps and trainer.global_rank == self.rank
        self.before = {name: value.clone() for name, value in _numbers(trainer, pl_module).items()}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *arguments: Any) -> None:
        after = _numbers(trainer, pl_module)
        moved = [name for name, value in self.before.items() if not torch.equal(value, after[name])]
        assert bool(moved) == (self.step not in self.steps), (self.step, moved)


def _numbers(trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, torch.Tensor]:
    """Weights, moments and step counts."""
    numbers = dict(module.named_parameters())
    for place, state in enumerate(trainer.optimizers[0].state.values()):
        numbers |= {f"{place}.{name}": value for name, value in state.items()}
    return {name: value.detach() for name, value in numbers.items()}


class PoisonOnly(Poison):
    """Poisons without looking: after a rollback weights do move."""

    def on_train_batch_end(self, *arguments: Any) -> None:
        pass
