"""What a run is and what it cost, in one small file: ``RUN/facts.json``."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning
import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from mae_vlm.callbacks.expendable import expendable
from mae_vlm.callbacks.peaks import peak_of
from mae_vlm.storage import write_whole
from mae_vlm.types import Batch

FACTS = "facts.json"
FORMAT = 1


class Facts(Callback):
    """Writes ``facts.json`` when training begins, at every validation and checkpoint, and when it ends; the first process does it.

    ``outcome`` is running (also of a run that was killed and could not say so), finished, stopped (told to) or failed. A run that is
    resumed in its folder adds to it: ``sessions`` holds one entry for each time it was started, and ``seconds`` and ``images_seen`` are
    their sums, so that a stretch which had to be done again counts twice: it is what the run cost. Nothing in it tells the machine's name,
    or a password in a path.

    Args:
        folder: the run's.
        choices: the automatic choices, each with ``key``, ``value`` and ``reason``.
    """

    def __init__(self, folder: Path | None = None, choices: list[dict[str, Any]] | None = None) -> None:
        self.folder, self.choices = folder, choices or []
        self.outcome = "running"
        self._began = time.monotonic()
        self._fixed: dict[str, Any] = {}
        self._sessions: list[dict[str, Any]] = []
        self._captions = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._began, self.outcome, self._sessions = time.monotonic(), "running", []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero or self.folder is None or getattr(trainer, "fast_dev_run", False):
            return
        before = stored(self.folder / FACTS)
        known = {choice["key"]: choice for choice in [*before.get("choices", []), *self.choices]}  # a resumed run has nothing to choose
        self._fixed = fixed_facts(trainer, pl_module) | {"choices": list(known.values())}
        self._captions = bool(before.get("data", {}).get("captions"))
        self._sessions = before.get("sessions", [])
        for session in self._sessions:
            session["outcome"] = "killed" if session["outcome"] == "running" else session["outcome"]
        self._sessions.append({"started": _now(), "from_step": trainer.global_step})
        self._write(trainer)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int) -> None:
        self._captions = self._captions or bool(batch.captions)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write(trainer)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._write(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write(trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.outcome = "finished"
        self._write(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.outcome = "stopped" if isinstance(exception, KeyboardInterrupt | SystemExit) else "failed"
        self._write(trainer)

    def _write(self, trainer: pl.Trainer) -> None:
        if not self._sessions or self.folder is None:  # another process than the first, or no training yet
            return
        now, step, last = _now(), trainer.global_step, self._sessions[-1]
        last |= {"seconds": round(time.monotonic() - self._began, 3), "to_step": step, "outcome": self.outcome}
        last["images"] = (step - last["from_step"]) * self._fixed["batch_size"]
        content = {
            "format": FORMAT,
            "started": self._sessions[0]["started"],
            "ended": None if self.outcome == "running" else now,
            "seconds": sum(session["seconds"] for session in self._sessions),
            "outcome": self.outcome,
            "step": step,
            "epoch": trainer.current_epoch,
            "images_seen": sum(session["images"] for session in self._sessions),
            **self._fixed,
            "sessions": self._sessions,
        }
        content["data"] = content["data"] | {"captions": self._captions}
        text = json.dumps(content, indent=1).encode()
        with expendable(FACTS):
            write_whole(self.folder / FACTS, lambda file: file.write(text))


def fixed_facts(trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
    """What does not change while a run goes on."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    device, precision = trainer.strategy.root_device, str(trainer.precision)
    steps, stated, peak = trainer.estimated_stepping_batches, getattr(module, "flops_per_image", None), peak_of(device, precision)
    weights = list(module.parameters())
    towers = getattr(module, "towers", torch.nn.Module())
    return {
        "max_steps": int(steps) if steps != float("inf") else None,
        "world_size": trainer.world_size,
        "device": device_name(device),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "precision": precision,
        "parameters": {
            "encoder": sum(weight.numel() for weight in towers.parameters()),
            "total": sum(weight.numel() for weight in weights),
            "trainable": sum(weight.numel() for weight in weights if weight.requires_grad),
        },
        "data": _data_facts(data),
        "batch_size": data.batch_size,
        "image_size": list(data.size),
        "gflop_per_image": stated() / 1e9 if callable(stated) else None,
        "peak_tflops": peak.flops / 1e12,
        "peak_source": peak.source,
    }


def _data_facts(data: Any) -> dict[str, Any]:
    """Of the collection, as it is on the disk; ``height`` and ``width`` are medians."""
    seen = data.inspect()
    facts = {name: getattr(seen, name) for name in ("format", "train", "val", "test", "height", "width", "channels")}
    path = None if seen.path is None else re.sub(r"//[^/@\s]*@", "//", seen.path)  # s3://key:secret@host
    return {"path": path, **facts, "classes": None if seen.classes is None else len(seen.classes)}


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else device.type


def stored(file: Path) -> dict[str, Any]:
    """The facts that an earlier session left; none where there are none, or none that can be read."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and content.get("format") == FORMAT else {}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
