"""Features of every picture as a file: what ``predict`` leaves behind for a pretrained encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pyarrow
import pyarrow.parquet
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from mae_vlm.types import Prediction


class Embeddings(BasePredictionWriter):
    """Writes ``features_<process>.parquet`` into the folder ``out``, batch by batch: columns ``id`` and ``features`` (float32 list)."""

    def __init__(self, out: Path) -> None:
        super().__init__(write_interval="batch")
        self.out = out
        self.count = 0
        self._writer: Any = None

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            for old in self.out.glob("features_*.parquet"):  # of an earlier run with more processes
                old.unlink()
        trainer.strategy.barrier()

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        ids, features_BD = _found(prediction)
        if not ids:  # this process's part of the last batch was only filled up
            return
        values = pyarrow.array(features_BD.flatten().numpy())
        table = pyarrow.table({"id": ids, "features": pyarrow.FixedSizeListArray.from_arrays(values, features_BD.shape[1])})
        if self._writer is None:
            self.out.mkdir(parents=True, exist_ok=True)
            self._writer = pyarrow.parquet.ParquetWriter(self.out / f"features_{trainer.global_rank}.parquet", table.schema)
        self._writer.write_table(table)
        self.count += len(ids)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._writer is not None:
            self._writer.close()


def _found(prediction: Any) -> tuple[list[str], Tensor]:
    """Names and features ``[B, D]``: of a pretrained encoder, or a head's embeddings (of several side by side)."""
    if "features" in prediction:
        return prediction["id"], prediction["features"]
    rows: list[list[Prediction]] = list(prediction.values())
    ids = [one.id for one in rows[0]]
    own = [torch.stack([one.embedding for one in some if one.embedding is not None]) for some in rows if some]
    return ids, torch.cat(own, dim=1) if own else torch.zeros(0, 0)
