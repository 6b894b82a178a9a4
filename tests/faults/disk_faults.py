"""Callbacks that take the disk away from their own run, for real. Named in a test's command line by their class path."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from mae_vlm import storage

BALLAST = "ballast"
_LIMIT = 2000  # bytes a file may have where no disk can be made: nothing that a run writes fits


def fill(disk: Path, left: int = 0) -> None:
    """Write until the disk is full, but for so many bytes."""
    with (disk / BALLAST).open("ab", buffering=0) as file:
        room = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - left
        file.write(bytes(max(0, room)))
        while not left:
            try:
                file.write(b"0" * 512)
            except OSError:
                return


class Harm(Callback):
    """From ``step`` on the disk is full (``how`` full), or no file may grow (limit), or it is read-only; until ``until``, or for good."""

    def __init__(self, disk: str, how: str, step: int, until: int = -1) -> None:
        self.disk, self.how, self.step, self.until = Path(disk), how, step, until

    def on_train_batch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if trainer.global_step == self.step and trainer.is_global_zero:
            {"full": self._fill, "limit": lambda: _limit(_LIMIT), "read-only": lambda: remount(self.disk, "ro")}[self.how]()
        if trainer.global_step == self.until and trainer.is_global_zero:
            {"full": lambda: (self.disk / BALLAST).unlink(), "limit": lambda: _limit(resource.RLIM_INFINITY)}[self.how]()

    def _fill(self) -> None:
        fill(self.disk)


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


def _limit(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails as on a full disk, instead of ending the process
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


class DieWriting(Callback):
    """SIGKILL from inside the write of the checkpoint of ``step``: ``where`` it is half written, or before ``last`` names it."""

    def __init__(self, step: int, where: str) -> None:
        self.step, self.where = step, where

    def on_train_batch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if trainer.global_step == self.step - 1:
            if self.where == "half":
                storage._Hashing.write = _die_in_the_middle(storage._Hashing.write)
            else:
                storage.point = _die


def _die_in_the_middle(write: Any) -> Any:
    def writes(self: Any, data: Any) -> int:
        if self.count > 100_000:
            self.file.flush()
            _die()
        return write(self, data)

    return writes


def _die(*arguments: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
