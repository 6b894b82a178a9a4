"""The callbacks of every run: those that have options on the command line, and those that just work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback

from mae_vlm.callbacks.best import Best
from mae_vlm.callbacks.bookends import Bookends
from mae_vlm.callbacks.checkpoint import Checkpoint
from mae_vlm.callbacks.ema import Ema
from mae_vlm.callbacks.facts import Facts
from mae_vlm.callbacks.gallery import Gallery
from mae_vlm.callbacks.gradients import Gradients
from mae_vlm.callbacks.guard import Guard
from mae_vlm.callbacks.head_pictures import HeadPictures
from mae_vlm.callbacks.hparams import Hparams
from mae_vlm.callbacks.hub import HubUpload
from mae_vlm.callbacks.metrics_csv import MetricsPlace
from mae_vlm.callbacks.pictures import Pictures
from mae_vlm.callbacks.probes import Probes
from mae_vlm.callbacks.progress import progress
from mae_vlm.callbacks.quarantine import Quarantine
from mae_vlm.callbacks.report import Report
from mae_vlm.callbacks.short_attention import ShortAttention
from mae_vlm.callbacks.signals import Signals, StepEnd
from mae_vlm.callbacks.throughput import Throughput
from mae_vlm.callbacks.updates import Updates

# option group -> class; a callback's ``folder`` is the run's, set by the CLI for ``fit`` and None in the other verbs
CONFIGURED: dict[str, type[Callback]] = {
    "checkpoint": Checkpoint,
    "pictures": Pictures,
    "guard": Guard,
    "gradients": Gradients,
    "probes": Probes,
    "ema": Ema,
    "hub": HubUpload,
}


def silent(bookends: Bookends, folder: Path, bar: bool, choices: list[dict[str, Any]]) -> list[Callback]:
    """The callbacks without options, in the order in which they act; ``bookends`` early: it validates once more at the end."""
    quarantine = Quarantine()
    quarantine.folder = folder
    signals = Signals()
    ours: list[Callback] = [MetricsPlace(), signals, Facts(folder, choices), bookends, Best(folder), HeadPictures(folder)]
    ours += [ShortAttention(), Throughput(), Updates(), quarantine, Hparams(), Gallery(folder)]
    # StepEnd after all that log a step; Report last: it reads what the others wrote
    return [*ours, *([progress()] if bar else []), StepEnd(signals), Report(folder)]
