"""Commands of the package as stages of a proof: each run once, its processor seconds kept."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path


def run_stage(folder: Path, stage: str, words: list[str]) -> float:
    """Processor seconds of ``python -m mae_vlm WORDS``, not run again where ``folder/stage.json`` says it was; it speaks into a log.

    Raises:
        ValueError: it failed; the log says why.
    """
    told = folder / f"{stage}.json"
    if not told.exists():
        folder.mkdir(parents=True, exist_ok=True)
        before = _processor_seconds()
        with (folder / f"{stage}.log").open("a") as log:
            done = subprocess.run([sys.executable, "-m", "mae_vlm", *words], stdout=log, stderr=subprocess.STDOUT)
        if done.returncode:
            raise ValueError(f"{stage} ended with {done.returncode}; the reason stands in {folder / f'{stage}.log'}")
        seconds = round(_processor_seconds() - before)  # of the last session alone, where it was killed
        told.write_text(json.dumps({"processor_seconds": seconds, "command": ["python", "-m", "mae_vlm", *words]}))
    return float(json.loads(told.read_text())["processor_seconds"])


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
