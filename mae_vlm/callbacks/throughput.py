"""How fast a run goes and what it waits for, without a synchronisation of its own."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from mae_vlm.types import Batch


class Throughput(Callback):
    """Logs ``throughput/images_per_second`` (all processes) and ``throughput/data_wait_fraction`` at every log step.

    The wait is the share of the time between two log steps that the host spent waiting for the next batch; validation
    and checkpoints count in neither. On a GPU the host runs ahead of the device, so a small wait may still be hidden by it.
    """

    def __init__(self) -> None:
        self._images = 0
        self._busy = self._waited = 0.0
        self._ended: float | None = None
        self._began = 0.0
        self._steps = 0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int) -> None:
        self._began = time.perf_counter()
        if self._ended is not None:
            self._waited += self._began - self._ended

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int) -> None:
        now = time.perf_counter()
        self._busy += now - self._began
        self._images += len(batch) * trainer.world_size
        step = trainer.global_step
        if step != self._steps and step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._steps = step
            total = self._busy + self._waited
            pl_module.log("throughput/images_per_second", self._images / total, prog_bar=True, rank_zero_only=True)
            pl_module.log("throughput/data_wait_fraction", self._waited / total, rank_zero_only=True)
            self._images, self._busy, self._waited = 0, 0.0, 0.0
        self._ended = time.perf_counter()

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._ended = None

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._ended = None  # the time until the next step is not spent on training data
