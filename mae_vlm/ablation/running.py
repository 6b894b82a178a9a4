"""The runs as processes: some at once, each on its device, stopped cleanly, gone on with where they were cut off."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import IO, Any

from mae_vlm.ablation.outcomes import ATTEMPT, Outcome, document, planned_steps, read
from mae_vlm.ablation.plan import Job, Length
from mae_vlm.storage import write_whole

PROGRAM = (sys.executable, "-m", "mae_vlm")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PARSE = "import json, sys; from mae_vlm.cli import main; [sys.exit(n + 1) for n, words in enumerate(json.load(sys.stdin)) if main(words)]"
_LOOK = 0.1  # seconds between two looks at the processes


def refused(words: list[list[str]]) -> tuple[int, str] | None:
    """The first of several argument lists of fit that its parser refuses, with fit's own line; None where it takes all of them.

    One process parses all: it takes seconds to import Lightning, and nothing is trained or written.
    """
    lists = json.dumps([[*one, "--print_config"] for one in words])
    done = subprocess.run([sys.executable, "-c", _PARSE], input=lists, capture_output=True, text=True, env=environment(None, 1))
    if not done.returncode:
        return None
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("mae_vlm: error: ")]
    place = done.returncode - 1 if errors else 0
    return place, (errors or lines or ["fit does not start"])[-1].removeprefix("mae_vlm: error: ")


def identity(given: list[str], length: Length, job: Job) -> dict[str, Any]:
    """What a run is made of: its options, and the content of every config named among them. Another one is another run."""
    words = job.words(given, length)
    files = [following for here, following in pairwise(words) if here in ("-c", "--config")]
    files += [word.partition("=")[2] for word in words if word.startswith("--config=")]
    kept = [word for word in words if not word.startswith(("--trainer.default_root_dir=", "--name="))]
    return {"words": kept, "configs": {file: _content(Path(file)) for file in files}}


def _content(config: Path) -> str:
    """A hash of a config; empty where there is none, which fit tells in its own words."""
    return hashlib.sha256(config.read_bytes()).hexdigest() if config.is_file() else ""


class Runner:
    """Runs jobs, at most ``parallel`` at once, each with one of ``devices`` as its CUDA_VISIBLE_DEVICES (none: as it is).

    SIGINT, SIGTERM and SIGHUP are handed on to the running processes, which save themselves; then nothing more is started. A second one is
    handed on too, and ends them at once. ``received`` is the signal's number, 0 for none. The processes inherit the file ``lock``.
    """

    def __init__(
        self,
        given: list[str],
        length: Length,
        parallel: int,
        devices: list[str],
        told: Callable[[Outcome], None],
        lock: int | None = None,
        program: tuple[str, ...] = PROGRAM,
    ) -> None:
        self.given, self.length, self.parallel, self.devices, self.told = given, length, parallel, devices, told
        self.lock, self.program = lock, program
        self.received = 0
        self._running: dict[int, _Child] = {}  # by place

    def run(self, jobs: list[Job]) -> None:
        """Run every job; ``told`` hears of each outcome."""
        waiting = list(jobs)
        before = {number: signal.signal(number, self._hand_on) for number in _SIGNALS}
        try:
            while self._running or (waiting and not self.received):
                for place in range(self.parallel):
                    if waiting and not self.received and place not in self._running:
                        self._start(waiting.pop(0), place)
                time.sleep(_LOOK)
                self._collect()
        finally:
            for child in self._running.values():  # only after an error of ours
                child.process.terminate()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _start(self, job: Job, place: int) -> None:
        device = self.devices[place % len(self.devices)] if self.devices else None
        words = job.words(self.given, self.length, planned_steps(job) if self.length.minutes is not None else None)
        made_of = identity(self.given, self.length, job)
        child = _Child(job, [*self.program, *words], environment(device, self.parallel), made_of, self.lock)
        self._running[place] = child
        if self.received:  # it came while the process was being started
            child.process.send_signal(self.received)

    def _collect(self) -> None:
        for place, child in list(self._running.items()):
            if child.ended():
                del self._running[place]
                self.told(read(child.job))

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number
        for child in list(self._running.values()):
            if child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)


class _Child:
    """One process, its log and its record."""

    def __init__(self, job: Job, command: list[str], env: dict[str, str], made_of: dict[str, Any], lock: int | None) -> None:
        self.job = job
        job.root.mkdir(parents=True, exist_ok=True)
        earlier = document(job.record).get("attempts", [])
        self.attempt: dict[str, Any] = {"started": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": None, "code": None}
        self.document = {"made_of": made_of, "attempts": [*earlier, self.attempt]}
        self._write()
        self.log: IO[str] = job.log.open("a")
        self.log.write(f"{ATTEMPT}{self.attempt['started']}: {' '.join(command)}\n")
        self.log.flush()
        self.began = time.monotonic()
        # a group of its own: Ctrl-C in a terminal reaches it once, from us, and not a second time from the terminal
        self.process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            process_group=0,
            pass_fds=[] if lock is None else [lock],
        )

    def ended(self) -> bool:
        """Whether the process is over; if so, its code and time are on record."""
        code = self.process.poll()
        if code is None:
            return False
        self.attempt |= {"seconds": round(time.monotonic() - self.began, 2), "code": code}
        self._write()
        self.log.close()
        return True

    def _write(self) -> None:
        text = json.dumps(self.document, indent=1).encode()
        write_whole(self.job.record, lambda file: file.write(text))


def environment(device: str | None, parallel: int) -> dict[str, str]:
    """The environment as it is, without what an outer run decided or numbered; the cores dealt out where several run at once."""
    foreign = ("MAE_VLM_DECIDED", "RANK", "LOCAL_RANK", "WORLD_SIZE", "GROUP_RANK", "NODE_RANK")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    if parallel > 1:
        env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // parallel)))
    return env if device is None else env | {"CUDA_VISIBLE_DEVICES": device}


def devices(given: list[str]) -> list[str]:
    """CUDA devices that runs may be dealt to: none on a CPU, and none where the options ask for several devices for each run."""
    options = dict(word[2:].partition("=")[::2] for word in given if word.startswith("--") and "=" in word)
    options |= {here[2:]: following for here, following in pairwise(given) if here.startswith("--") and "=" not in here}
    if options.get("trainer.accelerator", "auto") not in ("auto", "gpu", "cuda") or "trainer.devices" in options:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in listed.stdout.splitlines() if line.strip().isdigit()]
