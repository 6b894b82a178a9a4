"""The run's settings beside its final metrics, in TensorBoard's HPARAMS tab."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import yaml
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

from mae_vlm.callbacks.checkpoint import Checkpoint
from mae_vlm.callbacks.expendable import expendable

_SHOWN = ("model", "data", "seed_everything", "trainer")
_TRAINER = ("precision", "max_steps", "max_epochs", "accumulate_grad_batches", "gradient_clip_val", "devices")
_NOT_OF_DATA = ("path", "val_path", "annotations")  # where, not what; and a path may hold a password


class Hparams(Callback):
    """Writes the resolved config (numbers, words and switches of model, data and trainer) when training ends, into the run's event file.

    TensorBoard finds the metrics by their tags, the curves of the same file: no second folder, no second curve.
    """

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        saver = next((one for one in trainer.checkpoint_callbacks if isinstance(one, Checkpoint)), None)
        if saver is None or not trainer.is_global_zero:
            return
        settings = shown_settings(yaml.safe_load(saver.config) or {})
        metrics = {name: 0.0 for name in trainer.callback_metrics if name.startswith("val/") or name == "train/loss"}
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                with expendable("TensorBoard's list of settings"):
                    for summary in hparams(settings, metrics):  # type: ignore[no-untyped-call]
                        logger.experiment._get_file_writer().add_summary(summary)


def shown_settings(config: dict[str, Any]) -> dict[str, str | bool | int | float]:
    """The settings of a resolved config that a table of runs should show, by dotted name without ``init_args``; no unset ones."""
    shown = {name: value for name, value in config.items() if name in _SHOWN}
    shown["trainer"] = {name: value for name, value in config.get("trainer", {}).items() if name in _TRAINER}
    shown["data"] = {name: value for name, value in config.get("data", {}).items() if name not in _NOT_OF_DATA}
    return _flat(shown, "")


def _flat(value: Any, name: str) -> dict[str, str | bool | int | float]:
    if isinstance(value, dict):
        parts = (_flat(part, name if key == "init_args" else f"{name}.{key}".lstrip(".")) for key, part in value.items())
        return {key: part for found in parts for key, part in found.items()}
    if isinstance(value, list):
        return {} if any(isinstance(part, dict) for part in value) else {name: str(value)}
    return {name: value} if isinstance(value, str | bool | int | float) else {}
