"""A run that uploads itself while it goes on, by processes of its own: training never waits for a network."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from mae_vlm.callbacks.expendable import warn
from mae_vlm.callbacks.signals import Signals
from mae_vlm.hub.delivery import target_of
from mae_vlm.hub.licences import check_licence

_EVERY_BEST = 300.0  # seconds at least between two uploads of a new best
_BACK_OFF = (60.0, 3600.0)  # seconds after the first upload that failed, and at most; doubled each time
_LOOK = 1.0  # seconds between two looks at the process
_STOPPED = 30.0  # seconds that a run which was stopped, or failed, waits for its last upload
_RANKS = ("RANK", "LOCAL_", "WORLD_SIZE", "MASTER_", "NODE_RANK", "GROUP_", "ROLE_", "TORCHELASTIC", "PL_", "SLURM_", "MAE_VLM_DECIDED")


class HubUpload(Callback):
    """Uploads the newest whole checkpoint with card and pictures, as the verb push does: at intervals, after a new best, at the end.

    Off unless ``repo`` or ``to`` is given. Each upload is a process of its own, one at a time, of the first process of a run. One that
    fails is told in a line, tried again after a minute, then two, then four ..., and at the end of the run once more, which waits
    ``wait`` seconds at most. No failure ends or delays a step. The token is the hub's own (``hf auth login`` or HF_TOKEN), no option.

    Args:
        repo: org/name on the hub; made if it is not there.
        to: instead of it a folder, or s3://bucket/prefix.
        license: who may do what with it, as apache-2.0, cc-by-nc-4.0 or other; needed.
        every_n_steps: upload every so many optimizer steps, if a newer checkpoint is there.
        every_n_minutes: upload this often, if a newer checkpoint is there; None is never.
        weights: raw, or ema: their moving average.
        classifier: of a fine-tuned classifier the whole of it, not its encoder alone.
        with_state: also the newest checkpoint, to go on from.
        with_report: also the report as one page.
        pictures: those that the run drew; they show validation pictures.
        public: everybody may see the repository; else it is made private.
        force: also beside and over files that no push of this tool has put there.
        wait: seconds that the end of the run waits for its last upload.

    Raises:
        ValueError: two targets, one of another form, no licence or one that the hub does not know, or an interval that is not positive.
    """

    def __init__(
        self,
        repo: str | None = None,
        to: str | None = None,
        license: str | None = None,
        every_n_steps: int | None = None,
        every_n_minutes: float | None = 60.0,
        weights: str = "raw",
        classifier: bool = False,
        with_state: bool = False,
        with_report: bool = False,
        pictures: bool = True,
        public: bool = False,
        force: bool = False,
        wait: float = 300.0,
    ) -> None:
        if (every_n_steps is not None and every_n_steps < 1) or (every_n_minutes is not None and every_n_minutes <= 0) or wait < 0:
            raise ValueError(f"hub.every_n_steps {every_n_steps}, every_n_minutes {every_n_minutes} and wait {wait} must be positive")
        if weights not in ("raw", "ema"):
            raise ValueError(f"hub.weights {weights!r} given, allowed are raw and ema")
        self.on = repo is not None or to is not None
        self.place = str(target_of(repo, to, public)) if self.on else ""
        self.words = _words(repo, to, check_licence(license), weights) if self.on else []
        switches = {"--classifier": classifier, "--with-state": with_state, "--with-report": with_report}
        switches |= {"--no-pictures": not pictures, "--public": public, "--force": force}
        self.words += [word for word, chosen in switches.items() if chosen]
        self.every_n_steps, self.every_n_minutes, self.wait = every_n_steps, every_n_minutes, wait
        self.folder: Path | None = None  # set by the CLI, which numbers the run
        self.upload: Upload | None = None
        self.failures = 0  # in a row
        self._began = self._looked = self._not_before = 0.0
        self._uploaded: Kept = {}  # the checkpoints that the newest upload saw
        self._step = -1
        self._due = False
        self._stopped_by: list[Signals] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = self._looked = time.monotonic()
        self._step, self._uploaded = trainer.global_step, self._kept()
        if self._writes(trainer):
            self._start(["--check"])  # a wrong token is told now, and not after a week

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if not self.on or trainer.global_step == self._step or not self._writes(trainer):
            return
        self._step = trainer.global_step
        self._due = self._due or bool(self.every_n_steps and self._step % self.every_n_steps == 0)
        now = time.monotonic()
        if self._due or now - self._looked >= _LOOK:
            self._looked = now
            self._try(lambda: self._look(now))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """The end of a run, when all other callbacks have written what they write."""
        if stage == "fit" and self._writes(trainer) and self._began:
            self._stopped_by = [one for one in trainer.callbacks if isinstance(one, Signals)]  # type: ignore[attr-defined]
            self._try(self._last)
            self._try(lambda: self._finish(self.wait))

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """The others are still to write their last words: the process ends by itself, and is waited for when Python ends."""
        if not self._writes(trainer) or not self._began or isinstance(exception, KeyboardInterrupt):  # a second Ctrl-C: at once
            return
        if self._kept() != self._uploaded or self.failures:
            self._try(self._last)
            atexit.register(self._try, lambda: self._finish(min(self.wait, _STOPPED)))

    def _writes(self, trainer: pl.Trainer) -> bool:
        fits = self.on and self.folder is not None and trainer.is_global_zero and trainer.state.fn == "fit"
        return fits and not getattr(trainer, "fast_dev_run", False)

    def _look(self, now: float) -> None:
        if self.upload is not None:
            if not self.upload.ended:
                return
            self._tell()
        kept = self._kept()
        if kept == self._uploaded or now < self._not_before:
            return
        passed = now - self._began
        bests = {name: when for name, when in kept.items() if name.startswith("best")}
        better = passed >= _EVERY_BEST and any(self._uploaded.get(name) != when for name, when in bests.items())
        if self._due or better or self.failures or (self.every_n_minutes and passed >= 60 * self.every_n_minutes):
            self._due = False
            self._start([])

    def _start(self, more: list[str]) -> None:
        assert self.folder is not None
        if not more:
            self._began, before = time.monotonic(), self._kept()
        try:
            self.upload = Upload([str(self.folder), *self.words, *more])
        except OSError as problem:  # no memory for a process, no room for its files
            self._failed(f"no process for it: {problem}")
            return
        if not more:
            self._uploaded = before

    def _tell(self) -> None:
        """What became of the process that has ended, in a line."""
        assert self.upload is not None
        code, line, checked = self.upload.close(), self.upload.line, self.upload.checks
        self.upload = None
        if code:
            self._failed(line)
        elif not checked:
            self.failures = 0
            print(line, flush=True)

    def _failed(self, line: str) -> None:
        self.failures += 1
        pause = min(_BACK_OFF[0] * 2 ** (self.failures - 1), _BACK_OFF[1])
        self._not_before, self._uploaded = time.monotonic() + pause, {}
        warn(f"{line}; the run goes on, tried again in {pause / 60:g} min and at its end")

    def _last(self) -> None:
        """One more upload, of all that the run has left; one that is under way is of an older state, and is ended."""
        if self.upload is not None:
            self.upload.close()
        if self._kept():
            self._start([])

    def _finish(self, seconds: float) -> None:
        if self.upload is None:
            return
        if not self.upload.wait(0):
            print(f"uploading to {self.place}, for {seconds:g} s at most ...", flush=True)
        until = time.monotonic() + seconds
        while not (done := self.upload.wait(min(_LOOK, max(0.0, until - time.monotonic())))) and time.monotonic() < until:
            if any(one.received for one in self._stopped_by):  # told to end, while the run is over already
                break
        code, line = self.upload.close(), self.upload.line
        self.upload = None
        if done and code == 0:
            print(line, flush=True)
        else:
            why = line if done else f"the upload to {self.place} was not done in time"
            warn(f"{why}; the run is whole, upload it with: python -m mae_vlm push {self.folder} {' '.join(self.words)}")

    def _try(self, do: Callable[[], None]) -> None:
        try:
            do()
        except Exception as problem:  # an upload is worth no run
            warn(f"upload to {self.place}: {type(problem).__name__}: {problem}; the run goes on")

    def _kept(self) -> Kept:
        """The checkpoints that lie there, by name, each with the time it was written."""
        if not self.on or self.folder is None:
            return {}
        found: Kept = {}
        for file in (self.folder / "checkpoints").glob("*.ckpt"):
            try:
                found[file.name] = file.lstat().st_mtime_ns
            except OSError:  # removed since
                continue
        return found


Kept = dict[str, int]


class Upload:
    """One process of ``python -m mae_vlm push``; it sees no device, belongs to no group of processes, and has its own temporary folder."""

    def __init__(self, words: list[str]) -> None:
        self.checks = "--check" in words
        self.line = ""
        self._folder = tempfile.TemporaryDirectory(prefix="mae_vlm_upload_", ignore_cleanup_errors=True)
        self._told: IO[bytes] = (Path(self._folder.name) / "told").open("w+b")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_RANKS)}
        environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "TMPDIR": self._folder.name, "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, "-m", "mae_vlm", "push", *words]
        # a session of its own: Ctrl-C is the run's to hear
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=self._told, stderr=subprocess.STDOUT, start_new_session=True
        )

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def wait(self, seconds: float) -> bool:
        """Whether it ended within so many seconds."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> int:
        """End it if it goes on; its exit code, and in ``line`` its last word."""
        if not self.ended:
            self._process.kill()
        code = self._process.wait()
        if not self._told.closed:
            self._told.seek(0)
            lines = [line for line in self._told.read().decode(errors="replace").splitlines() if line.strip()]
            last = lines[-1] if lines else f"the process that uploads ended with code {code}"
            self.line = last.removeprefix("mae_vlm: error: ").removeprefix("mae_vlm: warning: ")
            self._told.close()
            self._folder.cleanup()
        return code


def _words(repo: str | None, to: str | None, licence: str, weights: str) -> list[str]:
    return [*(["--repo", repo] if repo else ["--to", str(to)]), "--license", licence, "--weights", weights]
