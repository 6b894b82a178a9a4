"""Pictures of what the objectives learn, of the same fixed samples, to TensorBoard and to files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torchvision.io import write_png

from mae_vlm.types import Batch


class Pictures(Callback):
    """Draws every objective's pictures after each validation: ``pictures/<name>_<step>.png`` and the tag ``pictures/<name>``.

    Args:
        count: how many validation pictures, always the first ones.

    Raises:
        ValueError: a count below 1.
    """

    def __init__(self, count: int = 8) -> None:
        if count < 1:
            raise ValueError(f"pictures.count {count} given, allowed is 1 or more")
        self.count = count
        self.folder: Path | None = None  # set by the CLI, which numbers the run
        self.newest: Path | None = None
        self._batch: Batch | None = None

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == 0 and trainer.is_global_zero:
            self._batch = batch[: self.count]

    @torch.no_grad()
    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self._batch is None or self.folder is None or trainer.sanity_checking or getattr(trainer, "fast_dev_run", False):
            return
        training, batch = pl_module.training, self._batch
        pl_module.eval()
        with trainer.precision_plugin.forward_context():
            features = pl_module.features(batch)
            for objective in pl_module.objectives.values():
                for name, picture_CHW in objective.pictures(features, batch).items():
                    self._show(trainer, name, picture_CHW.float().cpu())
        pl_module.train(training)

    def _show(self, trainer: pl.Trainer, name: str, picture_CHW: torch.Tensor) -> None:
        assert self.folder is not None
        picture_CHW = enlarged(shown_channels(picture_CHW))
        step = trainer.global_step
        folder = self.folder / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        self.newest = folder / f"{name}_{step:08d}.png"
        write_png((picture_CHW * 255).round().to(torch.uint8), str(self.newest))
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(f"pictures/{name}", picture_CHW, step)


def enlarged(picture_CHW: torch.Tensor, wanted: int = 480) -> torch.Tensor:
    """Whole pixels repeated until the picture is about ``wanted`` wide, so that small ones can be looked at."""
    scale = max(1, wanted // picture_CHW.shape[2])
    return picture_CHW.repeat_interleave(scale, 1).repeat_interleave(scale, 2)


def shown_channels(picture_CHW: torch.Tensor) -> torch.Tensor:
    """One or three channels to draw: three or more keep the first three, two are drawn as their mean."""
    channels = picture_CHW.shape[0]
    return picture_CHW if channels in (1, 3) else picture_CHW[:3] if channels > 3 else picture_CHW.mean(dim=0, keepdim=True)
