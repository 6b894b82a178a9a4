"""The run's ``metrics.csv``: Lightning's CSVLogger, which a resumed run goes on with instead of deleting it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger


class MetricsCsv(CSVLogger):
    """A CSVLogger that appends to a ``metrics.csv`` that is already there (Lightning 2.6 removes it)."""

    @property
    def experiment(self) -> Any:
        if self._experiment is not None:
            return super().experiment
        file = Path(self.log_dir) / "metrics.csv"
        old = file.read_text() if file.is_file() else ""
        writer: Any = super().experiment
        if old and hasattr(writer, "metrics_keys"):  # processes other than the first get a dummy
            file.write_text(old)
            writer.metrics_keys = next(csv.reader(old.splitlines()))
        return writer
