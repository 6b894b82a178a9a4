"""Progress of the whole run: a bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, ProgressBar
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class _OfTheRun(ProgressBar):
    """Steps, loss and pace of a run, from what Lightning shows in a progress bar."""

    def __init__(self) -> None:
        super().__init__()
        self.enabled = True

    def disable(self) -> None:
        """Lightning calls this on every process but the first."""
        self.enabled = False

    @staticmethod
    def steps(trainer: pl.Trainer) -> int:
        """Optimizer steps of the whole run, 0 when only time ends it."""
        steps = trainer.estimated_stepping_batches
        return int(steps) if steps != float("inf") else 0

    @staticmethod
    def status(trainer: pl.Trainer) -> str:
        """Loss and images/s as of the newest log step."""
        shown = {name: value for name, value in trainer.progress_bar_metrics.items() if not isinstance(value, str)}
        named = (("train/loss", "loss {:.4f}"), ("val/loss", "val {:.4f}"), ("throughput/images_per_second", "{:.0f} images/s"))
        return ", ".join(text.format(float(shown[name])) for name, text in named if name in shown)


class ProgressLines(_OfTheRun):
    """One line every ``seconds``: step, loss, images/s, time left. Used where nobody watches a terminal."""

    def __init__(self, seconds: float = 15.0) -> None:
        super().__init__()
        self.seconds = seconds
        self._began = self._printed = 0.0
        self._first_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = self._printed = time.monotonic()
        self._first_step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        now, step = time.monotonic(), trainer.global_step
        if not self.enabled or now - self._printed < self.seconds or step == self._first_step:
            return
        self._printed = now
        steps = self.steps(trainer)
        left = f", {_clock((now - self._began) / (step - self._first_step) * (steps - step))} left" if steps else ""
        print(f"step {step}{f'/{steps}' if steps else ''}: {self.status(trainer)}{left}", flush=True)


class ProgressOnTerminal(_OfTheRun):
    """A bar over all optimizer steps of the run, with loss, images/s, time gone and time left."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Progress | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.enabled:
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[status]}"))
        self._bar = Progress(*columns, TimeElapsedColumn(), TextColumn("gone,"), TimeRemainingColumn(), TextColumn("left"))
        self._task = self._bar.add_task("training", total=self.steps(trainer) or None, completed=trainer.global_step, status="")
        self._bar.start()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer._logger_connector.should_update_logs:  # reading a loss waits for the device
            self._show(trainer, "training")
        elif self._bar is not None:
            self._bar.update(self._task, completed=trainer.global_step)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._show(trainer, "validating")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._show(trainer, "trained")
        self.teardown(trainer, pl_module, "fit")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._bar is not None:
            self._bar.stop()  # leaves the terminal's cursor as it was
            self._bar = None

    def _show(self, trainer: pl.Trainer, what: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=what, completed=trainer.global_step, status=self.status(trainer))


def progress() -> Callback:
    """A progress bar on a terminal, plain lines elsewhere."""
    return ProgressOnTerminal() if sys.stdout.isatty() else ProgressLines()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
