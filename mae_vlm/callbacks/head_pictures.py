"""What validation measured beside single numbers: tables as files, the confusion matrix and precision-recall curves as pictures too."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.io import encode_png
from torchvision.transforms.functional import pil_to_tensor

from mae_vlm import storage
from mae_vlm.callbacks.curves import Curves
from mae_vlm.callbacks.expendable import expendable
from mae_vlm.heads.parts.class_metrics import CONFUSION, CURVES

_SIDE = 360  # pixels of a picture, about
_MOST_CURVES = 20  # in one picture


class HeadPictures(Callback):
    """After each validation of a fine-tuning: ``tables/<table>.csv``, the newest, and ``pictures/{confusion,precision_recall}_<step>.png``.

    The same pictures go to TensorBoard. Of several heads the names begin with the head's.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        results = getattr(pl_module, "results", {})
        if trainer.state.fn != "fit" or not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        for head, found in results.items():
            start = "" if len(results) == 1 else f"{head}_"
            for name, rows in pl_module.heads[head].tables(found).items():
                self._table(f"{start}{name}", rows)
            if CONFUSION in found:
                self._show(trainer, f"{start}{CONFUSION}", confusion_picture(found[CONFUSION]))
            if CURVES in found:
                self._show(trainer, f"{start}{CURVES}", curve_picture(*found[CURVES][:2]))

    def _table(self, name: str, rows: list[list[str]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        with expendable(f"a table in {self.folder / 'tables'}"):
            storage.write_whole(self.folder / "tables" / f"{name}.csv", lambda file: file.write(text.getvalue().encode()))

    def _show(self, trainer: pl.Trainer, name: str, picture_CHW: Tensor) -> None:
        file = self.folder / "pictures" / f"{name}_{trainer.global_step:08d}.png"
        with expendable(f"a picture in {file.parent}"):
            storage.write_whole(file, lambda opened: opened.write(encode_png(picture_CHW).numpy()))
        for logger in trainer.loggers:
            if isinstance(logger, Curves):
                logger.log_picture(f"pictures/{name}", picture_CHW.float() / 255, trainer.global_step)


def confusion_picture(matrix_LL: Tensor) -> Tensor:
    """Share of each true class (rows) that was answered as each class (columns), white for none, as uint8 ``[3, H, W]``."""
    share_LL = matrix_LL.double().cpu() / matrix_LL.sum(1, keepdim=True).clamp(min=1).cpu()
    shades = torch.stack([1 - share_LL, 1 - 0.7 * share_LL, 1 - 0.3 * share_LL])
    scale = max(1, _SIDE // len(matrix_LL))
    return (shades * 255).round().to(torch.uint8).repeat_interleave(scale, 1).repeat_interleave(scale, 2)


def curve_picture(precision_LT: Tensor, recall_LT: Tensor) -> Tensor:
    """Precision (up) over recall (across), a line for each of the first 20 classes, as uint8 ``[3, H, W]``."""
    picture = Image.new("RGB", (_SIDE, _SIDE), "white")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, _SIDE - 1, _SIDE - 1), outline="grey")
    count = min(_MOST_CURVES, len(precision_LT))
    for number in range(count):
        pairs = zip(recall_LT[number].tolist(), precision_LT[number].tolist(), strict=True)
        points = [(recall * (_SIDE - 1), (1 - precision) * (_SIDE - 1)) for recall, precision in pairs]
        draw.line(points, fill=f"hsl({360 * number // count}, 80%, 45%)", width=2)
    drawn: Tensor = pil_to_tensor(picture)
    return drawn
