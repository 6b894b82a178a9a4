"""The best weights of a fine-tuning, by each head's own metric, beside its newest."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from mae_vlm.callbacks.expendable import warn


class Best(Callback):
    """Writes ``best.ckpt`` (of several heads ``best_<head>.ckpt``) after each validation that is better than all before it.

    Which metric decides is the head's own word (``top1`` of a classifier). Pretraining has none: it hands over its last weights. The
    validation before the first step does not count. Like every checkpoint it is written whole, with its checksum in the manifest,
    and a run can go on from it; where it cannot be written the run says so and goes on.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.values: dict[str, float] = {}  # of each head's best so far
        self.steps: dict[str, int] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values, "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.values, self.steps = dict(state_dict["values"]), dict(state_dict["steps"])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        watched: dict[str, tuple[str, bool]] = getattr(pl_module, "watched", {})
        if trainer.state.fn != "fit" or getattr(trainer, "fast_dev_run", False) or not trainer.global_step:
            return
        for head, (tag, higher) in watched.items():
            if tag not in trainer.callback_metrics:  # nothing was validated
                continue
            value = float(trainer.callback_metrics[tag])  # the same on all processes
            if better(value, self.values.get(head), higher):
                before = dict(self.values), dict(self.steps)
                self.values[head], self.steps[head] = value, trainer.global_step  # which the file knows too
                if not self._save(trainer, "best.ckpt" if len(watched) == 1 else f"best_{head}.ckpt"):
                    self.values, self.steps = before

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for head, (tag, _) in getattr(pl_module, "watched", {}).items():
            if head in self.values and trainer.is_global_zero:
                print(f"best {tag}: {self.values[head]:.4f} at step {self.steps[head]}", flush=True)

    def _save(self, trainer: pl.Trainer, name: str) -> bool:
        """Whether it is written; all processes say the same."""
        written = True
        try:
            trainer.save_checkpoint(self.folder / "checkpoints" / name)
        except OSError as problem:
            written = False
            trainer.strategy.barrier()  # where the others wait at the end of save_checkpoint
            warn(f"{name} of step {trainer.global_step} is not written: {problem}; the run goes on")
        return bool(trainer.strategy.reduce_boolean_decision(written))


def better(value: float, than: float | None, higher: bool) -> bool:
    """Whether a metric is strictly better than the best so far; a number that is none never is."""
    if math.isnan(value):
        return False
    return than is None or (value > than if higher else value < than)
