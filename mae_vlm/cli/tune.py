"""tune: a batch size and a learning rate for a config, by Lightning's finders, on one process. No run begins, no weight is kept."""

from __future__ import annotations

import argparse
import io
import json
import logging
import sys
import warnings
from contextlib import redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from mae_vlm.cli.console import calm, complain, say

calm()  # before Lightning is imported

import lightning.pytorch as pl  # noqa: E402
from lightning.pytorch.tuner.tuning import Tuner  # noqa: E402

from mae_vlm.cli.rate import Range, draw, raw_losses, suggest  # noqa: E402
from mae_vlm.cli.scaled import Scaled, TimeIsUp  # noqa: E402
from mae_vlm.cli.training import Training  # noqa: E402

_FIRST = 8  # pictures at a time, of the first trial
_STEPS = 4  # of a trial of a size
_BASE = (1e-5, 1.0)  # the base rates of the test
_AS_FAST = 0.95  # of the best throughput is as good, on a CPU


class _Parser(argparse.ArgumentParser):
    """An argument parser that tells a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        complain(f"{message}; python -m mae_vlm tune --help shows how")
        sys.exit(2)


def run(arguments: list[str]) -> int:
    """Tune the run that ``fit`` with these arguments would be; the exit codes of ``fit``."""
    parser = _Parser(prog="python -m mae_vlm tune", allow_abbrev=False, add_help=False)
    parser.add_argument("--lr", action="store_true")
    parser.add_argument("--batch-size", action="store_true")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=None)
    try:
        own, rest = parser.parse_known_args(arguments)
        if own.steps < 20 or own.trials < 1:
            parser.error(f"--steps {own.steps} must be at least 20, --trials {own.trials} at least 1")
        Tune(own, rest)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return 0


class Tune(Training):
    """``fit`` up to the point where it would train; then tries sizes and rates instead."""

    def __init__(self, own: argparse.Namespace, arguments: list[str]) -> None:
        self.own = own
        self.both = not (own.lr or own.batch_size)
        super().__init__("fit", arguments)

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            self.tune()
        except Exception as problem:
            self._tell(problem)

    def tune(self) -> None:
        """Find what was asked for, print the lines to add, and write a picture of the rates.

        Raises:
            ValueError: a checkpoint was given, or nothing is found.
        """
        if self.checkpoint is not None:
            raise ValueError("tune tries fresh weights; leave --ckpt_path out")
        # one process takes the whole step here, in as many parts as all processes take
        self.parts = self.trainer.world_size * self.trainer.accumulate_grad_batches
        logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)  # the finders tell each of their steps
        logging.getLogger("lightning.pytorch.tuner").setLevel(logging.WARNING)
        warnings.filterwarnings("ignore", message=r".*Total length of `list` across ranks is zero.*")  # no validation is wanted
        found: dict[str, Any] = {}
        with TemporaryDirectory(prefix="mae_vlm_tune_") as place:
            if self.own.batch_size or self.both:
                found["batch_size"] = self.datamodule.batch_size = self.find_size(place)
            test = self.find_rate(place) if self.own.lr or self.both else None
        if "batch_size" in found:
            say(f"add:  --data.batch_size {found['batch_size']}   (images per optimizer step, over processes and accumulation)")
        if test is not None:
            self._tell_rate(test, found)

    # -- batch size

    def find_size(self, place: str) -> int:
        """Images per optimizer step: on a GPU the most that fit, on a CPU the fewest that are as fast as any.

        Raises:
            ValueError: not even the first size passed.
        """
        data, cpu = self.datamodule, self.trainer.strategy.root_device.type == "cpu"
        own = data.batch_size
        most = data.inspect().train // self.parts
        seconds = self.own.seconds if self.own.seconds is not None else 60.0 if cpu else None
        scaled = Scaled(data, most, seconds)
        scaled.batch_size = min(_FIRST, most)
        limits: dict[str, Any] = {
            "steps_per_trial": _STEPS,
            "init_val": scaled.batch_size,
            "max_trials": self.own.trials,
            "max_val": most + 1,
        }
        try:
            Tuner(self._trial_trainer(place, 1, _STEPS)).scale_batch_size(self.model, datamodule=scaled, **limits)
        except TimeIsUp:
            say(f"no larger size: the next would take longer than --seconds {seconds:g} in all")
        finally:
            data.batch_size, data._order = own, None
        rates = scaled.rates()
        if not rates:
            raise ValueError(
                f"not even {min(_FIRST, most)} pictures at a time fit; take a smaller model, or smaller pictures (data.image_size)"
            )
        for size, rate in rates.items():
            say(f"{size:6d} at a time: {rate:8.1f} images/s")
        for size in sorted(scaled.failed):
            say(f"{size:6d} at a time: does not fit into memory")
        best = max(rates.values())
        size = min(size for size, rate in rates.items() if rate >= _AS_FAST * best) if cpu else max(rates)
        return size * self.parts

    # -- learning rate

    def find_rate(self, place: str) -> Range:
        """The range test, over base rates; the optimizer step is as large as the run's."""
        images = self.datamodule.batch_size
        scaled = Scaled(self.datamodule, images)
        rates = {"min_lr": _BASE[0] * images / 256, "max_lr": _BASE[1] * images / 256}
        trainer = self._trial_trainer(place, self.parts, self.own.steps)
        say(f"trying {self.own.steps} rates, {images} images each")
        with redirect_stderr(io.StringIO()):  # a progress bar
            finder = Tuner(trainer).lr_find(self.model, datamodule=scaled, num_training=self.own.steps, update_attr=False, **rates)
        assert finder is not None
        base = [rate * 256 / images for rate in finder.results["lr"][: len(finder.results["loss"])]]
        return suggest(base, raw_losses(finder.results["loss"]))

    def _tell_rate(self, test: Range, found: dict[str, Any]) -> None:
        if test.found is None:
            raise ValueError(
                f"the loss fell at no rate within {self.own.steps} steps; try more --steps, or look at the data first (doctor, fit)"
            )
        rate = float(f"{test.rates[test.found]:.2g}")
        found |= {"base_lr": rate, "images_per_step": self.datamodule.batch_size}
        folder = self._folder()
        draw(test, folder / "rate.png")
        curve = {"base_lr": test.rates.tolist(), "loss": test.losses.tolist()}
        (folder / "tune.json").write_text(json.dumps(found | {"test": curve}, indent=1))
        lr = rate * self.datamodule.batch_size / 256
        say(f"add:  --model.optimizer.base_lr {rate:g}   (lr {lr:.2g} = base_lr x {self.datamodule.batch_size} images per step / 256)")
        say(f"look at it:  {folder / 'rate.png'}")

    def _folder(self) -> Path:
        """``<default_root_dir>/<name>/tune_<n>``, beside the runs; made now, when there is something to put into it."""
        number = 0
        while (folder := self.folder.parent / f"tune_{number}").exists():
            number += 1
        folder.mkdir(parents=True)
        return folder

    def _trial_trainer(self, place: str, accumulate: int, steps: int) -> pl.Trainer:
        """A trainer that writes nothing but Lightning's own copy of the weights, into ``place``."""
        told = self.config_init["fit"]["trainer"]
        kept = {name: told[name] for name in ("accelerator", "precision", "gradient_clip_val", "gradient_clip_algorithm")}
        return pl.Trainer(
            **kept,
            devices=1,
            accumulate_grad_batches=accumulate,
            max_epochs=-1,
            max_steps=steps,
            default_root_dir=place,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            check_val_every_n_epoch=10**9,
            use_distributed_sampler=False,
        )
