"""The callbacks of every run: those that have options on the command line, and those that just work."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.callbacks import Callback

from mae_vlm.callbacks.bookends import Bookends
from mae_vlm.callbacks.checkpoint import Checkpoint
from mae_vlm.callbacks.guard import Guard
from mae_vlm.callbacks.pictures import Pictures
from mae_vlm.callbacks.progress import progress
from mae_vlm.callbacks.quarantine import Quarantine
from mae_vlm.callbacks.signals import Signals
from mae_vlm.callbacks.throughput import Throughput

# option group -> class; a callback's ``folder`` is the run's, set by the CLI for ``fit`` and None in the other verbs
CONFIGURED: dict[str, type[Callback]] = {"checkpoint": Checkpoint, "pictures": Pictures, "guard": Guard}


def silent(bookends: Bookends, folder: Path, bar: bool) -> list[Callback]:
    """The callbacks without options, in the order in which they act; ``bookends`` early: it validates once more at the end."""
    quarantine = Quarantine()
    quarantine.folder = folder
    ours: list[Callback] = [Signals(), bookends, Throughput(), quarantine]
    return [*ours, progress()] if bar else ours
