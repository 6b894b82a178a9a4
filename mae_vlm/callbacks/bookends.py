"""A validation at the start and at the end of a run, however it ends."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback


class Bookends(Callback):
    """Validates before the first step and after the last, so that every run has a loss to compare with.

    A run that was cut off before or during a validation that was due makes up for it when it is resumed. The metrics of the first
    validation are kept in ``start``, those of the newest in ``end``.
    """

    def __init__(self) -> None:
        self.start: dict[str, float] = {}
        self.end: dict[str, float] = {}
        self._validated_step = -1
        self._began = False

    def state_dict(self) -> dict[str, Any]:
        return {"validated_step": self._validated_step, "start": self.start, "end": self.end}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._validated_step, self.start, self.end = state_dict["validated_step"], state_dict["start"], state_dict["end"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = True
        if trainer.global_step == 0 or (self._validated_step != trainer.global_step and _is_due(trainer)):
            validate_now(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validated_step = trainer.global_step
        self.end = {name: float(value) for name, value in trainer.logged_metrics.items() if name.startswith("val/")}
        self.start = self.start or self.end

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._validated_step != trainer.global_step:
            validate_now(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run that was cut off after its last step, in the validation there, has no step left to take: Lightning would just end."""
        if self._began or not trainer.global_step or self._validated_step == trainer.global_step:
            return
        trainer.training = True
        trainer.fit_loop.on_run_start()
        trainer.fit_loop.on_run_end()


def _is_due(trainer: pl.Trainer) -> bool:
    """Whether the run's schedule puts a validation after the step that was just taken."""
    if trainer.val_check_batch is None or trainer.val_check_batch == float("inf"):
        return False
    every, batches = int(trainer.val_check_batch), int(trainer.num_training_batches)
    epoch, steps = divmod(trainer.global_step, -(-batches // trainer.accumulate_grad_batches))
    place = steps * trainer.accumulate_grad_batches  # an epoch's last step may be made of fewer batches
    if trainer.check_val_every_n_epoch is None:
        return (epoch * batches + place) % every == 0
    if place == 0:  # at the end of epoch ``epoch - 1``
        return epoch % trainer.check_val_every_n_epoch == 0 and batches % every == 0
    return (epoch + 1) % trainer.check_val_every_n_epoch == 0 and place % every == 0


def validate_now(trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
    """Run the validation loop of a fit outside its schedule, as Lightning's own training epoch does it."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop.setup_data()
    if loop.skip:
        return
    loop.restarting = False  # a resumed loop would go on behind the batches of the validation before its checkpoint
    trainer.validating = True
    loop.run()
    trainer.training = True
    pl_module.train()
