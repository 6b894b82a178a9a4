"""Pictures of what the objectives learn and of what the encoder sees, of the same fixed samples, to TensorBoard and to files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torchvision.io import encode_png

from mae_vlm import storage
from mae_vlm.callbacks.curves import Curves
from mae_vlm.callbacks.expendable import expendable
from mae_vlm.callbacks.word_pictures import word_pictures
from mae_vlm.encoders.attention import attention_pictures
from mae_vlm.encoders.contact_sheet import shown_channels
from mae_vlm.encoders.feature_colours import colour_pictures
from mae_vlm.learners.sharding import whole
from mae_vlm.types import Batch


class Pictures(Callback):
    """Draws after each validation: ``pictures/<name>_<step>.png`` and the tag ``pictures/<name>``.

    The names are those of the objectives' pictures (``reconstruction``), in pretraining with captions ``retrieved`` and ``words``
    (:func:`mae_vlm.callbacks.word_pictures.word_pictures`), ``attention`` (where the last block's class token and a chosen
    patch look) and ``features`` (the main directions of the patch features as colours), always of the same validation pictures.

    Args:
        count: how many validation pictures, always the first ones.
        encoder: draw ``attention``, ``features`` and what words see too; two more forward passes of ``count`` pictures at each validation.

    Raises:
        ValueError: a count below 1.
    """

    def __init__(self, count: int = 8, encoder: bool = True) -> None:
        if count < 1:
            raise ValueError(f"pictures.count {count} given, allowed is 1 or more")
        self.count, self.encoder = count, encoder
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
        if self.folder is None or trainer.sanity_checking or getattr(trainer, "fast_dev_run", False):
            return
        with whole(pl_module):  # sharded weights are put together by all processes; the first one draws
            if self._batch is not None:
                self._draw(trainer, pl_module, self._batch)

    def _draw(self, trainer: pl.Trainer, pl_module: Any, batch: Batch) -> None:
        training = pl_module.training
        pl_module.eval()
        with trainer.precision_plugin.forward_context():
            features = pl_module.features(batch)
            for part in getattr(pl_module, "objectives", {}).values():
                for name, picture_CHW in part.pictures(features, batch).items():
                    self._show(trainer, name, picture_CHW.float().cpu())
            for head in getattr(pl_module, "heads", {}).values():
                for name, picture_CHW in head.pictures(head(features), batch).items():
                    self._show(trainer, name, picture_CHW.float().cpu())
            if self.encoder and pl_module.towers.text is not None and not hasattr(pl_module, "heads"):
                for name, sheet in word_pictures(pl_module.towers, features).items():
                    self._show(trainer, name, sheet.float().cpu())
            if self.encoder:
                seen: dict[str, Callable[..., Tensor | None]] = {"features": colour_pictures, "attention": attention_pictures}
                seeing = features.window(0, 0)  # all of a picture, unless it is larger than the encoder's
                for name, draw in seen.items():
                    drawn = draw(pl_module.towers.image, seeing.images_BCHW)
                    if drawn is not None:
                        self._show(trainer, name, drawn.float().cpu())
        pl_module.train(training)

    def _show(self, trainer: pl.Trainer, name: str, picture_CHW: torch.Tensor) -> None:
        assert self.folder is not None
        picture_CHW = enlarged(shown_channels(picture_CHW))
        step = trainer.global_step
        file = self.folder / "pictures" / f"{name}_{step:08d}.png"
        png = encode_png((picture_CHW * 255).round().to(torch.uint8)).numpy()
        with expendable(f"a picture in {file.parent}"):
            storage.write_whole(file, lambda opened: opened.write(png))
            self.newest = (
                file if name not in ("features", "attention", "retrieved", "words") else self.newest
            )  # what the closing lines point at
        for logger in trainer.loggers:
            if isinstance(logger, Curves):
                logger.log_picture(f"pictures/{name}", picture_CHW, step)
            elif isinstance(logger, TensorBoardLogger):  # one of the user's own
                logger.experiment.add_image(f"pictures/{name}", picture_CHW, step)


def enlarged(picture_CHW: torch.Tensor, wanted: int = 480) -> torch.Tensor:
    """Whole pixels repeated until the picture is about ``wanted`` wide, so that small ones can be looked at."""
    scale = max(1, wanted // picture_CHW.shape[2])
    return picture_CHW.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
