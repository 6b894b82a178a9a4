"""TensorBoard's event files, without which a run can do: a fault of the disk ends the file, never the run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from mae_vlm.callbacks.expendable import expendable


class Curves(TensorBoardLogger):
    """A TensorBoardLogger that leaves values out while the disk is full, says so once, and begins a new file when it tries again.

    It tries again after ever more values that it left out: each attempt on a full disk may leave an empty file. ``metrics.csv`` keeps all.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._left_out, self._patience = 0, 0
        _hush()

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self._attempt(lambda: super(Curves, self).log_metrics(metrics, step))

    @rank_zero_only
    def log_picture(self, tag: str, picture_CHW: Tensor, step: int) -> None:
        """One picture, float 0 to 1."""
        self._attempt(lambda: self.experiment.add_image(tag, picture_CHW, step))

    @rank_zero_only
    def log_embedding(self, tag: str, features_BD: Tensor, titles: list[str], thumbnails_BCHW: Tensor, step: int) -> None:
        """Features for the projector, each with a title and a square picture, float 0 to 1."""
        self._attempt(lambda: self.experiment.add_embedding(features_BD, titles, thumbnails_BCHW, step, tag))

    @rank_zero_only
    def log_hyperparams(self, *arguments: Any, **named: Any) -> None:
        self._attempt(lambda: super(Curves, self).log_hyperparams(*arguments, **named))

    @rank_zero_only
    def save(self) -> None:
        self._attempt(super().save)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._attempt(lambda: super(Curves, self).finalize(status))

    def _attempt(self, write: Callable[[], object]) -> None:
        if self._left_out < self._patience:
            self._left_out += 1
            return
        done = False
        with expendable(f"TensorBoard's file in {self.log_dir}"):
            try:
                write()
            except ValueError as problem:  # Lightning's word for whatever went wrong while a number was written
                raise problem.__cause__ if isinstance(problem.__cause__, OSError) else problem from None
            done = True
        self._left_out, self._patience = 0, 0 if done else max(20, 2 * self._patience)
        if not done:  # its thread has ended, and the file with half a record
            self._experiment = None


def _hush() -> None:
    """Let no traceback of TensorBoard's writing thread onto the screen: its fault is raised again, and told, at the next value."""
    told = threading.excepthook
    if getattr(told, "hushed", False):
        return

    def tell(fault: threading.ExceptHookArgs) -> None:
        if not (type(fault.thread).__name__ == "_AsyncWriterThread" and issubclass(fault.exc_type, OSError)):
            told(fault)

    tell.hushed = True  # type: ignore[attr-defined]
    threading.excepthook = tell
