"""The run's checkpoints, written beside their target and renamed, so that none is ever seen half-written."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint

from mae_vlm import pieces, storage
from mae_vlm.callbacks.expendable import warn
from mae_vlm.callbacks.host_group import first_says
from mae_vlm.callbacks.random_state import all_states, restore
from mae_vlm.types import CHECKPOINT_FORMAT, CHECKPOINT_KEY


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints whole or not at all, with their checksum in the folder's ``manifest.json``; never through ``$TMPDIR``.

    Reads those in pieces too, which processes with sharded weights have written.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        step = int(checkpoint.get("global_step", 0))
        storage.write_whole(Path(path), lambda file: torch.save(checkpoint, file), step)

    def load_checkpoint(self, path: Any, *arguments: Any, **named: Any) -> dict[str, Any]:
        if pieces.in_pieces(Path(path)):
            return pieces.read(Path(path))
        return super().load_checkpoint(path, *arguments, **named)


class Checkpoint(LightningCheckpoint):
    """Keeps numbered checkpoints ``step_<n>.ckpt`` in the run's folder ``checkpoints``, and ``last.ckpt``, a link to the newest.

    Every checkpoint holds the resolved config and a format version under ``mae_vlm``, so that a file is enough to rebuild the model.
    It is always written at the end of the run, and when the run is told to stop. Where one cannot be written (a full disk, a folder that
    became read-only) the run says so and goes on, on all processes: the ones before stay whole, and it tries again when the next is due.

    Args:
        every_n_steps: write one every so many optimizer steps.
        every_n_minutes: write one this often; the clock is looked at every ten steps.
        keep_last: how many of the newest stay, and one more while a rollback may need it; with 2 or more, a damaged one has a whole one
            before it.
        keep_every: those of steps that are multiples of this stay for good.

    Raises:
        ValueError: an interval that is not positive, or nothing kept; at the end of the run, its last checkpoint could not be written.
    """

    def __init__(
        self, every_n_steps: int | None = None, every_n_minutes: float = 10.0, keep_last: int = 2, keep_every: int | None = None
    ) -> None:
        if (every_n_steps is not None and every_n_steps < 1) or every_n_minutes <= 0:
            raise ValueError(f"checkpoint.every_n_steps {every_n_steps} and every_n_minutes {every_n_minutes} must be positive")
        if keep_last < 1 or (keep_every is not None and keep_every < 1):
            raise ValueError(f"checkpoint.keep_last {keep_last} and keep_every {keep_every} must be at least 1")
        self.every_n_steps, self.every_n_minutes = every_n_steps, every_n_minutes
        self.keep_last, self.keep_every = keep_last, keep_every
        self.folder: Path | None = None  # set by the CLI, which numbers the run
        self.config = ""
        self.problem = ""  # why the newest attempt wrote nothing; the same on all processes
        self._random: list[dict[str, Any]] = []
        self._saved_step = self._seen_step = -1
        self._saved_at = time.monotonic()
        self._resumes, self._stale = True, False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        restore(self._random, trainer.global_rank)  # for what others save before this callback's turn, the last one, comes

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._saved_step, self._saved_at, self._resumes = -1, time.monotonic(), True
        self._seen_step = trainer.global_step
        restore(self._random, trainer.global_rank)
        if self.folder is not None and trainer.is_global_zero:
            for part in (self.folder / "checkpoints").glob("*.partial"):  # of a process that was killed while writing
                storage.discard(part)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        if self._resumes:  # Lightning adds one where a validation was due, and none where it was not: the curves would shift
            trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
            self._resumes = False

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if step == self._seen_step or self.folder is None:  # between the micro-steps of one step there is nothing to save
            return
        self._seen_step = step
        due = any(every and step % every == 0 for every in (self.every_n_steps, self.keep_every))
        if not due and step % 10 == 0:  # the first process's clock decides, or the others would not meet it in the barrier
            due = first_says(trainer, time.monotonic() - self._saved_at > 60 * self.every_n_minutes)
        if due:
            self.save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stale = self._saved_step == trainer.global_step

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        there = self._saved_step == trainer.global_step
        if self._stale:  # written before the last validation, of which it must know, or a longer run would take its rows for a killed one's
            self._saved_step = -1
        self.save(trainer)
        if self.problem and not there:
            raise ValueError(f"the run's last checkpoint is not written: {self.problem}; put that right and go on with --ckpt_path last")

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        _place_in_epoch(checkpoint["loops"]["fit_loop"], trainer, int(trainer.num_training_batches))
        states = all_states(trainer.world_size)
        text = getattr(getattr(pl_module, "towers", None), "text", None)
        stated = {} if text is None else {"text": text.stated()}
        checkpoint[CHECKPOINT_KEY] = {"format": CHECKPOINT_FORMAT, "config": self.config, "random": states, **stated}

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._random = checkpoint.get(CHECKPOINT_KEY, {}).get("random", [])
        batches = getattr(trainer.datamodule, "batches", None)  # type: ignore[attr-defined]
        if trainer.state.fn == "fit" and batches:  # accumulation or length may be others by now
            _place_in_epoch(checkpoint["loops"]["fit_loop"], trainer, batches, checkpoint["global_step"])

    def save(self, trainer: pl.Trainer) -> Path | None:
        """Write the checkpoint of this step, all processes together, and let ``last.ckpt`` name it.

        None if it is there already, or if it cannot be written: then ``problem`` says why.
        """
        step = trainer.global_step
        if self.folder is None or getattr(trainer, "fast_dev_run", False) or step == self._saved_step:
            return None
        file = self.folder / "checkpoints" / f"step_{step:08d}.ckpt"
        self.problem, self._saved_at = self._write(trainer, file), time.monotonic()
        if self.problem:
            if trainer.is_global_zero:
                warn(f"no checkpoint of step {step}: {self.problem}; those before it stay, and it is tried again when the next is due")
            return None
        self._saved_step = step
        return file

    def _write(self, trainer: pl.Trainer, file: Path) -> str:
        """Why the file could not be written, or nothing: what the first process that failed says, on all of them."""
        problem = ""
        try:
            trainer.save_checkpoint(file)
        except OSError as error:
            problem = _in_words(error)
            trainer.strategy.barrier()  # where the others wait at the end of save_checkpoint
        if trainer.is_global_zero and not problem:
            self._link_and_prune(trainer, file)
        told: list[Any] = [problem] * trainer.world_size
        if trainer.world_size > 1:
            dist.all_gather_object(told, problem)
        return next(filter(None, told), "")

    def _link_and_prune(self, trainer: pl.Trainer, file: Path) -> None:
        """What can fail without harm to the checkpoint that is written: then it is told, in one line."""
        failed = []
        try:
            storage.point(file.with_name(storage.LAST), file)
        except OSError as error:
            failed.append(f"{storage.LAST} cannot name it ({_in_words(error)})")
        try:
            self._prune(trainer, file.parent)
        except OSError as error:
            failed.append(f"older ones cannot be removed ({_in_words(error)})")
        if failed:
            warn(f"{file.name} is written, but {' and '.join(failed)}")

    def _prune(self, trainer: pl.Trainer, folder: Path) -> None:
        found = [file for file in storage.checkpoints(folder) if re.fullmatch(r"step_\d+", file.stem)]
        numbered = {file: int(file.stem.removeprefix("step_")) for file in found}
        stay = {*list(numbered)[: self.keep_last], *_for_rollback(trainer, numbered)}
        for file, step in numbered.items():
            if file not in stay and not (self.keep_every and step % self.keep_every == 0):
                storage.remove(file)


def _for_rollback(trainer: pl.Trainer, numbered: dict[Path, int]) -> list[Path]:
    """Of checkpoints, newest first, what callbacks may need: the newest that is no newer than a step ``needed``, or else the oldest."""
    found = (getattr(callback, "needed", None) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    return [next((file for file, step in numbered.items() if step <= needed), list(numbered)[-1]) for needed in found if needed is not None]


def _in_words(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)


def _place_in_epoch(loop: dict[str, Any], trainer: pl.Trainer, batches: int, step: int | None = None) -> None:
    """Write the run's true place into Lightning's counters: after ``global_step`` whole optimizer steps, nothing half done.

    Lightning (2.6) saves them in the middle of its hooks: one batch behind at the end of a batch, one epoch ahead at the
    end of a run, so that a resumed run would repeat or skip batches.
    """
    step = trainer.global_step if step is None else step
    epoch, steps = divmod(step, -(-batches // trainer.accumulate_grad_batches))
    place = steps * trainer.accumulate_grad_batches
    begun = epoch + (place > 0)
    for scope in loop["epoch_progress"].values():
        scope.update(ready=begun, started=begun, processed=epoch, completed=epoch)
    progress = loop["epoch_loop.batch_progress"]
    progress["is_last_batch"] = False
    for scope, count in (("current", place), ("total", epoch * batches + place)):
        progress[scope].update(ready=count, started=count, processed=count, completed=count)
    loop["epoch_loop.state_dict"]["_batches_that_stepped"] = step - 1  # where a validation that is made up for is logged
