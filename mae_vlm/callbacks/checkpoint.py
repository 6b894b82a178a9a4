"""The run's checkpoints, written beside their target and renamed, so that none is ever seen half-written."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint

from mae_vlm.types import CHECKPOINT_FORMAT, CHECKPOINT_KEY


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes ``PATH.partial`` in the target's own folder, syncs it to disk and renames it; never through ``$TMPDIR``."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


class Checkpoint(LightningCheckpoint):
    """Keeps ``checkpoints/last.ckpt`` of the run's folder, and numbered ones where asked for.

    Every checkpoint holds the resolved config and a format version under ``mae_vlm``, so that a file is enough to rebuild the model.

    Args:
        every_n_steps: also keep ``step_<n>.ckpt`` every so many optimizer steps; None keeps only ``last``.
        every_n_minutes: refresh ``last`` this often; it is always written at the end of the run.

    Raises:
        ValueError: an interval that is not positive.
    """

    def __init__(self, every_n_steps: int | None = None, every_n_minutes: float = 10.0) -> None:
        if (every_n_steps is not None and every_n_steps < 1) or every_n_minutes <= 0:
            raise ValueError(f"checkpoint.every_n_steps {every_n_steps} and every_n_minutes {every_n_minutes} must be positive")
        self.every_n_steps, self.every_n_minutes = every_n_steps, every_n_minutes
        self.folder: Path | None = None  # set by the CLI, which numbers the run
        self.config = ""
        self._saved_step = 0
        self._saved_at = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if step == self._saved_step or self.folder is None:
            return
        if self.every_n_steps and step % self.every_n_steps == 0:
            self._save(trainer, f"step_{step:08d}.ckpt")
        if step % 10 == 0 and trainer.strategy.broadcast(time.monotonic() - self._saved_at > 60 * self.every_n_minutes):
            self._save(trainer, "last.ckpt")  # the first process's clock decides, or the others would not meet it in the barrier

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save(trainer, "last.ckpt")

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        _place_in_epoch(checkpoint["loops"]["fit_loop"], trainer)
        checkpoint[CHECKPOINT_KEY] = {"format": CHECKPOINT_FORMAT, "config": self.config}

    def _save(self, trainer: pl.Trainer, name: str) -> None:
        if self.folder is None or getattr(trainer, "fast_dev_run", False):
            return
        trainer.save_checkpoint(self.folder / "checkpoints" / name)
        self._saved_step = trainer.global_step
        if name == "last.ckpt":
            self._saved_at = time.monotonic()


def _place_in_epoch(loop: dict[str, Any], trainer: pl.Trainer) -> None:
    """Write the run's true place into Lightning's counters: after ``global_step`` whole optimizer steps, nothing half done.

    Lightning (2.6) saves them in the middle of its hooks: one batch behind at the end of a batch, one epoch ahead at the
    end of a run, so that a resumed run would repeat or skip batches.
    """
    batches = int(trainer.num_training_batches)
    epoch, place = divmod(trainer.global_step * trainer.accumulate_grad_batches, batches)
    begun = epoch + (place > 0)
    for scope in loop["epoch_progress"].values():
        scope.update(ready=begun, started=begun, processed=epoch, completed=epoch)
    progress = loop["epoch_loop.batch_progress"]
    progress["is_last_batch"] = False
    for scope, count in (("current", place), ("total", epoch * batches + place)):
        progress[scope].update(ready=count, started=count, processed=count, completed=count)
    loop["epoch_loop.state_dict"]["_batches_that_stepped"] = trainer.global_step - 1  # the loader adds one, or the curves would shift
