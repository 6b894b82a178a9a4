"""Progress for a terminal, or one line now and then for a log file."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, ProgressBar, RichProgressBar


class ProgressLines(ProgressBar):
    """One line every ``seconds``: step, loss, images/s, time left. Used where nobody watches a terminal."""

    def __init__(self, seconds: float = 15.0) -> None:
        super().__init__()
        self.seconds = seconds
        self._began = self._printed = 0.0
        self._first_step = 0

    def disable(self) -> None:
        """Lightning calls this on every process but the first."""
        self.seconds = float("inf")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = self._printed = time.monotonic()
        self._first_step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        now, step = time.monotonic(), trainer.global_step
        if now - self._printed < self.seconds or step == self._first_step:
            return
        self._printed = now
        steps = int(trainer.estimated_stepping_batches) if trainer.estimated_stepping_batches != float("inf") else 0
        left = f", {_clock((now - self._began) / (step - self._first_step) * (steps - step))} left" if steps else ""
        metrics = {name: float(value) for name, value in trainer.progress_bar_metrics.items() if not isinstance(value, str)}
        speed = metrics.get("throughput/images_per_second")
        pace = f", {speed:.0f} images/s" if speed else ""
        print(f"step {step}{f'/{steps}' if steps else ''}: loss {metrics.get('train/loss', float('nan')):.4f}{pace}{left}", flush=True)


def progress() -> Callback:
    """A progress bar with loss, images/s and time left on a terminal, plain lines elsewhere."""
    return RichProgressBar() if sys.stdout.isatty() else ProgressLines()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
