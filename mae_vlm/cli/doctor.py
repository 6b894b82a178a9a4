"""doctor: runs a few steps of a config and says whether its loader or its model is the bottleneck. Nothing is written."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from typing import Any

from mae_vlm.cli.console import calm, say

calm()  # before Lightning is imported

import lightning.pytorch as pl  # noqa: E402
import torch  # noqa: E402
from lightning.pytorch.callbacks import Callback  # noqa: E402

from mae_vlm.cli.training import Training  # noqa: E402
from mae_vlm.cli.verdict import Rates, verdict  # noqa: E402
from mae_vlm.types import Batch  # noqa: E402

_WARM = 2  # steps and batches that are not counted: processes start, memory is taken
_SECONDS = 10.0  # for each of the three measurements
_LEAST, _MOST = 4, 200  # batches of each
_ENOUGH = 2.0  # a second of measuring says little


def run(arguments: list[str]) -> int:
    """Examine the run that ``fit`` with these arguments would be; the exit codes of ``fit``."""
    try:
        Doctor(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return 0


class Doctor(Training):
    """``fit`` up to the point where it would train; then measures instead."""

    def __init__(self, arguments: list[str]) -> None:
        super().__init__("fit", arguments)

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            for line in verdict(self.measure()):
                say(line)
        except Exception as problem:
            self._tell(problem)

    def measure(self) -> Rates:
        """The loader alone, the model alone, both together."""
        data = self.datamodule
        told = self.trainer  # what one of its processes takes at a time is measured on one process here
        data.batch_size = max(1, data.batch_size // (told.world_size * told.accumulate_grad_batches))
        data.trainer = data._order = None
        loader_rate, batch = self._loader_alone()
        say(f"loader alone:   {loader_rate:8.1f} images/s with {self._workers()} workers")
        model_rate, _ = self._steps(lambda: _Same(batch))
        say(f"model alone:    {model_rate:8.1f} images/s ({self.trainer.accelerator.__class__.__name__}, {self.trainer.precision})")
        together, waited = self._steps(data.train_dataloader)
        say(f"both together:  {together:8.1f} images/s, {waited:.0%} of the time waiting for pictures")
        summary = data.inspect()
        return Rates(
            loader=loader_rate,
            model=model_rate,
            together=together,
            waited=waited,
            workers=self._workers(),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            ahead_bytes=self._ahead(batch),
            shared_bytes=shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else None,  # noqa: PTH112
            typical=(summary.height, summary.width),
            size=data.size,
            cpu=self.trainer.accelerator.__class__.__name__ == "CPUAccelerator",
            path=data.path,
        )

    def _workers(self) -> int:
        return int(self.datamodule.train_dataloader().num_workers)

    def _ahead(self, batch: Batch) -> int:
        ahead = self.datamodule.train_dataloader().prefetch_factor or 0
        return ahead * self._workers() * batch.images_BCHW.numel() * batch.images_BCHW.element_size()

    def _loader_alone(self) -> tuple[float, Batch]:
        """Pictures per second, and one batch."""
        batches = _endless(self.datamodule)
        for _ in range(_WARM):
            batch = next(batches)
        began, count = time.perf_counter(), 0
        for number in range(1, _MOST + 1):
            batch = next(batches)
            count += len(batch)
            if _long_enough(number, time.perf_counter() - began):
                break
        return count / (time.perf_counter() - began), batch

    def _steps(self, make_loader: Any) -> tuple[float, float]:
        """Pictures per second and the share of the time waited, over optimizer steps of a trainer that writes nothing."""
        clock = _Clock()
        told = self.config_init["fit"]["trainer"]
        trainer = pl.Trainer(
            accelerator=told["accelerator"],
            precision=told["precision"],
            gradient_clip_val=told["gradient_clip_val"],
            devices=1,
            max_steps=_WARM + _MOST,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            use_distributed_sampler=False,
            callbacks=[clock],
        )
        data = self.datamodule
        own = data.train_dataloader
        data.train_dataloader = make_loader
        try:
            trainer.fit(self.model, datamodule=data)
        finally:
            data.train_dataloader = own
        return clock.rate, clock.waited


class _Same:
    """The same batch again and again: a loader that never lets the model wait."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return _WARM + _MOST

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(len(self)):
            yield self.batch


class _Clock(Callback):
    """Times the steps after the warm ones; on a GPU it waits for the device at both ends only."""

    def __init__(self) -> None:
        self.images, self.steps, self.spent, self.idle = 0, 0, 0.0, 0.0
        self._began = self._ended = 0.0

    @property
    def rate(self) -> float:
        return self.images / self.spent

    @property
    def waited(self) -> float:
        return self.idle / self.spent

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        if self.steps > _WARM:
            self.idle += time.perf_counter() - self._ended

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.steps += 1
        if self.steps == _WARM:
            _settle(pl_module.device)
            self._began = time.perf_counter()
        elif self.steps > _WARM:
            self.images += len(batch)
            self.spent = time.perf_counter() - self._began
            if _long_enough(self.steps - _WARM, self.spent):
                _settle(pl_module.device)
                self.spent = time.perf_counter() - self._began
                trainer.should_stop = True
        self._ended = time.perf_counter()


def _endless(data: Any) -> Iterator[Batch]:
    while True:
        yield from data.train_dataloader()


def _long_enough(number: int, seconds: float) -> bool:
    return (number >= _LEAST and seconds >= _SECONDS) or (number >= _MOST and seconds >= _ENOUGH)


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
