"""A validation at the start and at the end of a run, however it ends."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback


class Bookends(Callback):
    """Validates before the first step and after the last, so that every run has a loss to compare with.

    The metrics of the first validation are kept in ``start``, those of the newest in ``end``.
    """

    def __init__(self) -> None:
        self.start: dict[str, float] = {}
        self.end: dict[str, float] = {}
        self._validated_step = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == 0:
            validate_now(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validated_step = trainer.global_step
        self.end = {name: float(value) for name, value in trainer.logged_metrics.items() if name.startswith("val/")}
        self.start = self.start or self.end

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._validated_step != trainer.global_step:
            validate_now(trainer, pl_module)


def validate_now(trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
    """Run the validation loop of a fit outside its schedule, as Lightning's own training epoch does it."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop.setup_data()
    if loop.skip:
        return
    trainer.validating = True
    loop.run()
    trainer.training = True
    pl_module.train()
