"""Pictures that cannot be read: named in the run's folder, counted, and too many of them end the run on all processes at once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch.distributed
from lightning.pytorch.callbacks import Callback

from mae_vlm.callbacks.checkpoint import Checkpoint
from mae_vlm.callbacks.expendable import expendable
from mae_vlm.types import Batch

_WORDS = {"train": "training", "val": "validation"}


class Quarantine(Callback):
    """Keeps ``quarantine.jsonl`` in the run's folder: ``{"id", "reason", "part", "epoch", "step"}`` once for each broken picture.

    The processes tell each other what they found at every log step and after every validation, so that all know the same. Logs
    ``data/quarantined``: distinct pictures since the run began, also over a resume, which reads the file.

    Annotations left out while the collection was opened are written to ``annotations.jsonl`` beside it.

    Raises:
        ValueError: after the step in which more training or more validation pictures are broken than ``data.max_broken`` allows, and
            once a checkpoint is written.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None  # set by the CLI, which numbers the run
        self.known: dict[tuple[str, str], dict[str, Any]] = {}  # by part and id; the same on all processes
        self._new: dict[tuple[str, str], dict[str, Any]] = {}  # what this process found since they last told each other
        self._step = 0
        self._over = ""

    @property
    def file(self) -> Path:
        return (self.folder or Path()) / "quarantine.jsonl"

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.known = trainer.strategy.broadcast(_read(self.file) if self._writes(trainer) else {})
        problems = trainer.datamodule.problems  # type: ignore[attr-defined]
        if problems and self._writes(trainer):
            where = self.file.with_name("annotations.jsonl")
            with expendable(str(where)):
                problems.write(where)
            trainer.print(f"{len(problems):,} bad annotations are left out, or clipped ({problems.describe()}): {where}")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self._collect(trainer, batch, "train")
        step = trainer.global_step
        if step == self._step:  # in the middle of an accumulated step
            return
        self._step = step
        if step % max(1, trainer.log_every_n_steps) == 0:  # type: ignore[attr-defined]
            self._exchange(trainer)
            pl_module.log("data/quarantined", float(len(self.known)), rank_zero_only=True)
        self._judge(trainer)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._collect(trainer, batch, "val")

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._exchange(trainer)
        if trainer.state.fn == "fit":
            pl_module.log("data/quarantined", float(len(self.known)), rank_zero_only=True)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._collect(trainer, batch, "test")

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._collect(trainer, batch, "all")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._exchange(trainer)
        self._judge(trainer)
        if self.known:
            trainer.print(f"pictures that could not be read, each replaced by another: {len(self.known):,}, named in {self.file}")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._exchange(trainer)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._exchange(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if self._writes(trainer):  # the others may be in any state: nothing is exchanged
            self._append(list(self._new.values()))
        self._new = {}

    def _writes(self, trainer: pl.Trainer) -> bool:
        ours = self.folder is not None and self.folder.is_dir() and trainer.is_global_zero
        return ours and trainer.state.fn == "fit" and not getattr(trainer, "fast_dev_run", False)

    def _collect(self, trainer: pl.Trainer, batch: Batch, part: str) -> None:
        for id, reason in batch.broken:
            if (part, id) not in self.known:
                entry = {"id": id, "reason": reason, "part": part, "epoch": trainer.current_epoch, "step": trainer.global_step}
                self._new.setdefault((part, id), entry)

    def _exchange(self, trainer: pl.Trainer) -> None:
        """All processes learn what each has found; every process must come here at the same step."""
        found: list[dict[tuple[str, str], dict[str, Any]]] = [self._new]
        if trainer.world_size > 1:
            found = [{} for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(found, self._new)
        self._new = {}
        fresh = {key: entry for one in found for key, entry in one.items() if key not in self.known}
        if not fresh:
            return
        first = not self.known
        self.known |= fresh
        entries = list(fresh.values())
        if self._writes(trainer):
            self._append(entries)
        if trainer.state.fn == "fit":
            self._over = self._over or self._too_many(trainer, entries[-1])
        if first or trainer.state.fn != "fit":
            trainer.print(self._notice(trainer, entries))

    def _notice(self, trainer: pl.Trainer, entries: list[dict[str, Any]]) -> str:
        example = f"{entries[0]['id']}: {entries[0]['reason']}"
        if trainer.state.fn == "fit":
            return f"a picture that cannot be read is replaced by another: {example}; all such are named in {self.file}"
        return f"pictures that cannot be read are left out: {len(entries):,}, the first {example}"

    def _too_many(self, trainer: pl.Trainer, last: dict[str, Any]) -> str:
        """Why the run cannot go on, or nothing."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        for part, count in Counter(part for part, _ in self.known).items():
            if count > data.most_broken(part):
                return (
                    f"{count:,} of {getattr(data.inspect(), part):,} {_WORDS[part]} pictures cannot be read, more than the "
                    f"{data.most_broken(part):,} that data.max_broken {data.max_broken:g} allows: the last {last['id']}: {last['reason']}; "
                    f"see {self.file}, and delete it once they are repaired"
                )
        return ""

    def _judge(self, trainer: pl.Trainer) -> None:
        if not self._over:
            return
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, Checkpoint):
                callback.save(trainer)
        raise ValueError(self._over)

    def _append(self, entries: list[dict[str, Any]]) -> None:
        if entries:
            with expendable(str(self.file)), self.file.open("a") as file:
                file.write("".join(json.dumps(entry) + "\n" for entry in entries))


def _read(file: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """What an earlier part of the run wrote; a line that was cut off is passed over."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for line in file.read_text().splitlines() if file.is_file() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        found[entry["part"], entry["id"]] = entry
    return found
