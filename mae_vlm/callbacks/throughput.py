"""How fast a run goes, what it waits for and what it holds in memory, without a synchronisation of its own."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from mae_vlm.callbacks.memory import GIB, HostMemory
from mae_vlm.callbacks.peaks import peak_of
from mae_vlm.types import Batch


class Throughput(Callback):
    """Logs speed and memory at every log step; in the steps between it reads the host's clock and nothing else.

    ``throughput/images_per_second`` counts all processes, ``throughput/data_wait_fraction`` is the share of the time between two log steps
    that the host spent waiting for the next batch; validation and checkpoints count in neither. On a GPU the host runs ahead of the device,
    so a small wait may still be hidden by it.

    ``throughput/tflops`` is the model's arithmetic per second and device (see ``Pretrainer.flops_per_image``), ``throughput/peak_fraction``
    its share of what the device can do (MFU; ``facts.json`` says whether that is from its data sheet or measured). Activations that are
    recomputed make a step longer and count nothing.

    ``memory/host_gib`` is what the first process and its loader workers hold (see ``HostMemory``), ``memory/device_gib`` the
    most that tensors took on the first process's GPU since the last log step.
    """

    def __init__(self) -> None:
        self._images = 0
        self._busy = self._waited = 0.0
        self._ended: float | None = None
        self._began = 0.0
        self._steps = 0
        self._flops, self._peak = 0, 0.0
        self._host = HostMemory()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        stated = getattr(pl_module, "flops_per_image", None)
        self._flops = stated() if callable(stated) else 0
        if self._flops:
            self._peak = peak_of(trainer.strategy.root_device, str(trainer.precision)).flops

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int) -> None:
        self._began = time.perf_counter()
        if self._ended is not None:
            self._waited += self._began - self._ended

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int) -> None:
        now = time.perf_counter()
        self._busy += now - self._began
        self._images += len(batch) * trainer.world_size
        step = trainer.global_step
        if step != self._steps and step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._steps = step
            self._log_speed(trainer, pl_module)
            self._log_memory(pl_module)
            self._images, self._busy, self._waited = 0, 0.0, 0.0
        self._ended = time.perf_counter()

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._ended = None

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._ended = None  # the time until the next step is not spent on training data

    def _log_speed(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        total = self._busy + self._waited
        rate = self._images / total
        pl_module.log("throughput/images_per_second", rate, prog_bar=True, rank_zero_only=True)
        pl_module.log("throughput/data_wait_fraction", self._waited / total, rank_zero_only=True)
        if self._flops:
            done = rate * self._flops / trainer.world_size
            pl_module.log("throughput/tflops", done / 1e12, rank_zero_only=True)
            pl_module.log("throughput/peak_fraction", done / self._peak, rank_zero_only=True)

    def _log_memory(self, pl_module: pl.LightningModule) -> None:
        held = self._host.look()
        if held is not None:
            pl_module.log("memory/host_gib", held / GIB, rank_zero_only=True)
        if pl_module.device.type == "cuda":  # the allocator's own count: no device is asked
            pl_module.log("memory/device_gib", torch.cuda.max_memory_allocated(pl_module.device) / GIB, rank_zero_only=True)
            torch.cuda.reset_peak_memory_stats(pl_module.device)
