"""Features of every picture as a file: what ``predict`` leaves behind for a pretrained encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pyarrow
import pyarrow.parquet
from lightning.pytorch.callbacks import BasePredictionWriter


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
        features_BD = prediction["features"]
        if not len(features_BD):  # this process's part of the last batch was only filled up
            return
        values = pyarrow.array(features_BD.flatten().numpy())
        table = pyarrow.table({"id": prediction["id"], "features": pyarrow.FixedSizeListArray.from_arrays(values, features_BD.shape[1])})
        if self._writer is None:
            self.out.mkdir(parents=True, exist_ok=True)
            self._writer = pyarrow.parquet.ParquetWriter(self.out / f"features_{trainer.global_rank}.parquet", table.schema)
        self._writer.write_table(table)
        self.count += len(features_BD)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._writer is not None:
            self._writer.close()
