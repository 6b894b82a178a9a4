"""Which pictures the features hold for alike: neighbours of a few queries, and TensorBoard's projector with thumbnails.

Letters: B pictures, C channels, H, W pixels, D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn import functional
from torchvision.io import encode_png

from mae_vlm import storage
from mae_vlm.callbacks.curves import Curves
from mae_vlm.callbacks.expendable import expendable
from mae_vlm.callbacks.pictures import enlarged
from mae_vlm.callbacks.probes import Probes
from mae_vlm.encoders.contact_sheet import contact_sheet, shown_channels
from mae_vlm.heads.parts.linear_probe import standardised

_QUERIES, _NEIGHBOURS = 8, 7
_POINTS = 500  # in the projector
_THUMBNAIL = 32  # pixels: all thumbnails together stay one picture of TensorBoard's
_SAME, _OTHER, _UNKNOWN = (0.1, 0.65, 0.3), (0.85, 0.25, 0.2), (0.75, 0.75, 0.75)


class Gallery(Callback):
    """After each probe a picture ``neighbours``: a few held-out pictures, and beside each the others whose features are nearest.

    Features are the last block's, centred and standardised, compared by cosine. With labels, frames tell whether the class is the
    query's (green) or another (red). After the last probe the features of up to 500 pictures go to TensorBoard's projector. The first
    process draws, from the pictures that it holds.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._step = -1

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        self._show(trainer, ended=False)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._show(trainer, ended=True)

    def _show(self, trainer: pl.Trainer, ended: bool) -> None:
        probes = next((one for one in trainer.callbacks if isinstance(one, Probes)), None)  # type: ignore[attr-defined]
        if probes is None or probes.features_BD is None or probes.part is None or not trainer.is_global_zero or probes.step == self._step:
            return
        self._step, part = probes.step, probes.part
        features_BD = probes.features_BD[:: part.world]  # the first process holds every world-th picture
        pixels_BCHW = torch.cat([_shown(batch.images_BCHW) for batch in part.batches])[: len(features_BD)]
        labels_B = torch.cat([batch.labels_B for batch in part.batches])[: len(features_BD)]
        if len(features_BD) < 2:
            return
        self._picture(trainer, enlarged(neighbours_sheet(features_BD, pixels_BCHW, labels_B)))
        if ended:
            self._project(trainer, features_BD[:_POINTS], pixels_BCHW[:_POINTS], labels_B[:_POINTS])

    def _picture(self, trainer: pl.Trainer, sheet_CHW: Tensor) -> None:
        file = self.folder / "pictures" / f"neighbours_{self._step:08d}.png"
        png = encode_png((sheet_CHW * 255).round().to(torch.uint8)).numpy()
        with expendable(f"a picture in {file.parent}"):
            storage.write_whole(file, lambda opened: opened.write(png))
        for logger in trainer.loggers:
            if isinstance(logger, Curves):
                logger.log_picture("pictures/neighbours", sheet_CHW, self._step)

    def _project(self, trainer: pl.Trainer, features_BD: Tensor, pixels_BCHW: Tensor, labels_B: Tensor) -> None:
        classes = trainer.datamodule.inspect().classes or []  # type: ignore[attr-defined]
        titles = [classes[label] if 0 <= label < len(classes) else "unknown" for label in labels_B.tolist()]
        thumbnails = functional.interpolate(pixels_BCHW, size=(_THUMBNAIL, _THUMBNAIL), mode="bilinear", antialias=True).clamp(0, 1)
        thumbnails = thumbnails.expand(-1, 3, -1, -1)
        for logger in trainer.loggers:
            if isinstance(logger, Curves):
                logger.log_embedding("features", features_BD, titles, thumbnails, self._step)


def neighbours_sheet(features_BD: Tensor, pixels_BCHW: Tensor, labels_B: Tensor) -> Tensor:
    """The first pictures, a row each, and right of each its nearest others, as float ``[3, H, W]`` in [0, 1]."""
    near_QK = nearest(features_BD, min(_QUERIES, len(features_BD)), min(_NEIGHBOURS, len(features_BD) - 1))
    queries_Q = torch.arange(len(near_QK))
    columns = [_framed(pixels_BCHW[queries_Q], torch.tensor([_UNKNOWN]).expand(len(queries_Q), 3))]
    for place_Q in near_QK.unbind(dim=1):
        known_Q = (labels_B[queries_Q] >= 0) & (labels_B[place_Q] >= 0)
        same_Q = labels_B[queries_Q] == labels_B[place_Q]
        colours_Q3 = torch.where(same_Q[:, None], torch.tensor(_SAME), torch.tensor(_OTHER))
        columns.append(_framed(pixels_BCHW[place_Q], torch.where(known_Q[:, None], colours_Q3, torch.tensor(_UNKNOWN))))
    return contact_sheet(columns)


def nearest(features_BD: Tensor, queries: int, neighbours: int) -> Tensor:
    """For each of the first pictures the places of those most alike, itself left out, int64 ``[queries, neighbours]``."""
    unit_BD = functional.normalize(standardised(features_BD, features_BD)[0])
    cosine_QB = unit_BD[:queries] @ unit_BD.T
    cosine_QB[torch.arange(queries), torch.arange(queries)] = -2.0
    return cosine_QB.topk(neighbours, dim=1).indices


def _shown(images_BCHW: Tensor) -> Tensor:
    scale = {torch.uint8: 255.0, torch.uint16: 65535.0}.get(images_BCHW.dtype, 1.0)
    return shown_channels(images_BCHW.float() / scale)


def _framed(pixels_BCHW: Tensor, colours_B3: Tensor) -> Tensor:
    """The pictures in frames of one colour each, a sixteenth of their side wide."""
    width = max(1, min(pixels_BCHW.shape[-2:]) // 16)
    framed_B3HW = colours_B3[:, :, None, None].expand(-1, -1, *pixels_BCHW.shape[-2:]).clone()
    framed_B3HW[:, :, width:-width, width:-width] = pixels_BCHW[:, :, width:-width, width:-width].expand(-1, 3, -1, -1)
    return framed_B3HW
