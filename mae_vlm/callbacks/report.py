"""The verdict at the end of a run: ``report.html`` in its folder, and one line of what was found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from mae_vlm.callbacks.expendable import warn
from mae_vlm.callbacks.sampled import sampled
from mae_vlm.data.reader import Reader
from mae_vlm.report.page import REPORT, report
from mae_vlm.storage import write_whole

SAMPLED = "sampled.json"


class Report(Callback):
    """Looks at some training pictures before the first step (``sampled.json``), and writes ``report.html`` when the run has ended.

    The last of all callbacks, since it reads what the others wrote. The first process does it, also after an error; whatever goes wrong
    here is told in one line and ends no run.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.lines: list[str] = []  # for the end of the command

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._writes(trainer) and self.folder is not None and not (self.folder / SAMPLED).exists():
            self._try(lambda: self._sample(trainer, pl_module))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._writes(trainer):
            self._try(lambda: self._report(trainer))

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if self._writes(trainer) and self.folder is not None and (self.folder / "metrics.csv").is_file():  # it came as far as that
            self._try(lambda: self._report(trainer))
            for line in self.lines:
                print(line, flush=True)

    def _writes(self, trainer: pl.Trainer) -> bool:
        ours = self.folder is not None and self.folder.is_dir() and trainer.is_global_zero
        return ours and trainer.state.fn == "fit" and not getattr(trainer, "fast_dev_run", False)

    def _sample(self, trainer: pl.Trainer, module: Any) -> None:
        reader = getattr(trainer.train_dataloader, "dataset", None)
        if not isinstance(reader, Reader) or self.folder is None:
            return
        space = getattr(getattr(module, "towers", None), "image", None)
        patch = space.space.patch if space is not None else 16
        facts = sampled(reader, trainer.datamodule.size, patch)  # type: ignore[attr-defined]
        write_whole(self.folder / SAMPLED, lambda file: file.write(json.dumps(facts).encode()))

    def _report(self, trainer: pl.Trainer) -> None:
        assert self.folder is not None
        for logger in trainer.loggers:
            logger.save()
        content, verdict = report(self.folder)
        write_whole(self.folder / REPORT, lambda file: file.write(content))
        self.lines = [f"verdict:      {verdict.describe()}", f"report:       {self.folder / REPORT}"]

    def _try(self, do: Any) -> None:
        try:
            do()
        except Exception as problem:  # a report is worth no run
            warn(f"the report was not written: {type(problem).__name__}: {problem}")
