"""A run that is told to stop: the signal sets a flag, the processes agree at a step boundary, one checkpoint is written."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from mae_vlm.callbacks.checkpoint import Checkpoint
from mae_vlm.callbacks.host_group import host_group

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))
_EVERY = 2.0  # seconds between two looks at the other processes, about


class Stopped(SystemExit):
    """The run was told to stop and has saved itself; ``code`` is 128 + the signal's number."""


class Signals(Callback):
    """Ends the run within seconds of SIGTERM (exit code 143), SIGINT (130) or SIGUSR1, whichever process gets it.

    Nothing is done in the handler but to take a note. Every process looks at its note after each step of training and of validation; with
    several processes they ask each other about every two seconds, at steps that all of them know, on the host: no device waits for it.
    Then all of them write one checkpoint together. Under SLURM, SIGUSR1 (``--signal=USR1@120``) also puts the job back into the queue.
    A second SIGINT ends the process at once.
    """

    def __init__(self) -> None:
        self.received = 0  # a signal's number
        self._before: dict[int, Any] = {}
        self._group: Any = None
        self._ticks, self._next, self._asked_at, self._asked = 0, 1, 0, 0.0
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.received, self._ticks, self._next, self._asked_at, self._asked = 0, 0, 1, 0, time.monotonic()
        self._step = trainer.global_step
        for number in SIGNALS:  # now, because Lightning's own handlers, which work inside the handler, came before
            self._before[number] = signal.signal(number, self._note)
        # Lightning's loop asks the device for its own flag at every batch, which its handlers, now gone, would set
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]

    def look_after_step(self, trainer: pl.Trainer) -> None:
        """To be called when all other callbacks have seen the step: a checkpoint written now holds what they logged."""
        if trainer.global_step != self._step:  # between the micro-steps of one step there is nothing to save
            self._step = trainer.global_step
            self._look(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._ask_next()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._ask_next()

    def _ask_next(self) -> None:
        """Steps of training and of validation take unlike long: what the ones took says nothing of when to ask among the others."""
        self._asked_at, self._next, self._asked = self._ticks, self._ticks + 1, time.monotonic()

    def on_validation_batch_end(self, trainer: pl.Trainer, *arguments: Any, **named: Any) -> None:
        if self._before:
            self._look(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or number

    def _look(self, trainer: pl.Trainer) -> None:
        self._ticks += 1
        if self._ticks < self._next:
            return
        if trainer.world_size > 1 and self._group is None:
            self._group = host_group()
        told = self.received if self._group is None else self._ask()
        if told:
            self._stop(trainer, told)

    def _ask(self) -> int:
        """The signal that any process has noted, 0 for none; sets the tick at which all ask again."""
        took = time.monotonic() - self._asked
        facts = torch.tensor([float(self.received), took / (self._ticks - self._asked_at)], dtype=torch.float64)
        dist.all_reduce(facts, dist.ReduceOp.MAX, group=self._group)
        told, seconds = facts.tolist()
        self._asked_at = self._ticks
        self._next = self._ticks + max(1, int(_EVERY / max(seconds, 1e-3)))
        self._asked = time.monotonic()
        return int(told)

    def _stop(self, trainer: pl.Trainer, number: int) -> None:
        name = signal.Signals(number).name
        saver = next((one for one in trainer.checkpoint_callbacks if isinstance(one, Checkpoint)), None)
        if saver is not None:
            saver.save(trainer)
        if trainer.is_global_zero:
            where = f"; saved in {saver.folder / 'checkpoints'}" if saver is not None and saver.folder and not saver.problem else ""
            print(f"stopped by {name} at step {trainer.global_step}{where}; go on with --ckpt_path last", flush=True)
            if number == getattr(signal, "SIGUSR1", None):
                requeue()
        trainer.strategy.barrier()  # srun may end the job with its first failing task: not before it is back in the queue
        # Lightning kills the first process as soon as one that it started ends with another code than 0
        helper = isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher) and trainer.local_rank > 0
        raise Stopped(0 if helper else 128 + number)


class StepEnd(Callback):
    """Lets ``signals`` be looked at behind all callbacks that log a step; it stands last among them, and they before."""

    def __init__(self, signals: Signals) -> None:
        self.signals = signals

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.signals.look_after_step(trainer)


def _nothing() -> None:
    """In the place of a question that nobody needs an answer to."""


def requeue() -> bool:
    """Put this SLURM job back into the queue; False where it is none, or where SLURM refuses (which is said)."""
    array, task, job = (os.environ.get(name, "") for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_JOB_ID"))
    name = f"{array}_{task}" if array else job
    if not re.fullmatch(r"[0-9]+(_[0-9]+)?", name) or shutil.which("scontrol") is None:
        return False
    answer = subprocess.run(["scontrol", "requeue", name], capture_output=True, text=True)
    if answer.returncode:
        print(f"SLURM did not requeue job {name}: {answer.stderr.strip()}", flush=True)
    return answer.returncode == 0
