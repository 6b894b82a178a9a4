"""The run's ``metrics.csv``: Lightning's CSVLogger, which a resumed run goes on with, exactly where its checkpoint was written."""

from __future__ import annotations

import csv
import io
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.apply_func import convert_tensors_to_scalars
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

from mae_vlm import storage
from mae_vlm.callbacks.expendable import expendable

_KEY = "metrics_csv"  # in a checkpoint: how far the table was


class MetricsCsv(CSVLogger):
    """A CSVLogger that goes on with a ``metrics.csv`` that is already there (Lightning 2.6 removes it) and never leaves half of one."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            self._experiment = _Table(self.log_dir)
        return self._experiment

    @rank_zero_only
    def save(self) -> None:
        """Write what waits; where the disk refuses, it waits on in memory, which is said once."""
        with expendable(str(Path(self.log_dir) / "metrics.csv")):
            super().save()


class MetricsPlace(Callback):
    """Lets every checkpoint know how far ``metrics.csv`` was; a resumed run drops the rows after that, whose steps it takes again.

    A run that was killed then leaves the same table as one that was not, each row once and in order; the rows before stay byte by byte.
    """

    def __init__(self) -> None:
        self._place: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        table = _table(trainer)
        if table is not None:
            checkpoint[_KEY] = {"rows": table.rows, "pending": _pending(trainer)}

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._place = checkpoint.get(_KEY)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        table, place, self._place = _table(trainer), self._place, None
        if table is None or place is None:
            return
        with expendable(str(table.file)):
            if table.cut(place["rows"]) and place["pending"]:
                table.log_metrics(place["pending"], place["pending"]["step"])
                table.save()


class _Table(ExperimentWriter):
    """Lightning's writer, but it removes no file, replaces it only as a whole, and counts its rows."""

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir=log_dir)
        self.file = Path(self.metrics_file_path)
        self._written = self._bytes = 0
        self.file.with_name(self.file.name + ".partial").unlink(missing_ok=True)  # of a process that was killed while replacing it
        text = _whole_lines(self.file)
        if not text:
            self.file.unlink(missing_ok=True)
        elif len(text) != self.file.stat().st_size:  # killed within a line
            self._replace(text)
        else:
            self._know(text)

    @property
    def rows(self) -> int:
        """Rows so far, those of the run before included."""
        return self._written + len(self.metrics)

    def save(self) -> None:
        """Append the rows that wait.

        Raises:
            OSError: they wait on, and the table is as it was.
        """
        waiting = len(self.metrics)
        try:
            super().save()
        except OSError:
            self._take_back()
            raise
        self._written += waiting
        self._bytes = self.file.stat().st_size if waiting else self._bytes

    def _take_back(self) -> None:
        """Remove what was written of rows before the disk refused the rest, and of columns that only they have."""
        with suppress(OSError), self.file.open("r+b") as file:
            file.truncate(self._bytes)
        head = _whole_lines(self.file).partition(b"\n")[0].decode()
        self.metrics_keys = next(csv.reader([head]), [])

    def cut(self, rows: int) -> bool:
        """Keep the first ``rows`` rows; False, and nothing done, where there are fewer (another run's table, or none)."""
        self.save()
        lines = _whole_lines(self.file).splitlines(keepends=True)
        if len(lines) < rows + 1:
            return False
        if len(lines) > rows + 1:
            self._replace(b"".join(lines[: rows + 1]))
        return True

    def _check_log_dir_exists(self) -> None:
        """Here Lightning's writer removes the table."""

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        whole = io.StringIO(newline="")
        table = csv.DictWriter(whole, fieldnames)
        table.writeheader()
        table.writerows(csv.DictReader(io.StringIO(_whole_lines(self.file).decode(), newline="")))
        self._replace(whole.getvalue().encode())

    def _replace(self, text: bytes) -> None:
        storage.write_whole(self.file, lambda file: file.write(text))
        self._know(text)

    def _know(self, text: bytes) -> None:
        lines = text.splitlines()
        self.metrics_keys = next(csv.reader([lines[0].decode()]))
        self._written, self._bytes = len(lines) - 1, len(text)


def _whole_lines(file: Path) -> bytes:
    """What a table holds up to its last line end; empty where there is no table."""
    text = file.read_bytes() if file.is_file() else b""
    return text[: text.rfind(b"\n") + 1]


def _table(trainer: pl.Trainer) -> _Table | None:
    """The table of this run, None on processes other than the first and where no such logger is."""
    tables = [logger.experiment for logger in trainer.loggers if isinstance(logger, MetricsCsv)]
    return next((table for table in tables if isinstance(table, _Table)), None)


def _pending(trainer: pl.Trainer) -> dict[str, Any]:
    """The row of the step just taken, which Lightning logs only after the checkpoint is written; empty where it is logged, or not due."""
    loop, connector = trainer.fit_loop.epoch_loop, trainer._logger_connector
    progress: Any = loop.batch_progress.current
    step = loop._batches_that_stepped
    within = progress.processed > progress.completed  # in the hooks at the end of a batch
    if not within or (step + 1) % max(1, trainer.log_every_n_steps):  # type: ignore[attr-defined]
        return {}
    metrics = convert_tensors_to_scalars(connector.metrics["log"])
    return {"epoch": trainer.current_epoch, **metrics, "step": step} if metrics else {}
