"""robustness: what a fine-tuned run's heads are worth on spoilt pictures, as a table, a plot and a sheet of the pictures."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any, NoReturn, cast

from mae_vlm.cli.console import calm, complain, say

calm()  # before Lightning is imported

from torch import Tensor  # noqa: E402
from torchvision.io import encode_png  # noqa: E402

from mae_vlm import pieces, storage  # noqa: E402
from mae_vlm.cli.training import Training  # noqa: E402
from mae_vlm.convert import native  # noqa: E402
from mae_vlm.learners.finetune import Finetuner  # noqa: E402
from mae_vlm.robustness import table  # noqa: E402
from mae_vlm.robustness.examination import Examination  # noqa: E402
from mae_vlm.robustness.findings import Findings  # noqa: E402
from mae_vlm.robustness.plot import svg  # noqa: E402
from mae_vlm.robustness.selection import Selection  # noqa: E402
from mae_vlm.robustness.sheet import sheet  # noqa: E402

_SHOWN = 2  # pictures on the sheet
_SECONDS = 15.0  # between two lines of progress


class _Parser(argparse.ArgumentParser):
    """An argument parser that tells a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        complain(f"{message}; python -m mae_vlm robustness --help shows how")
        sys.exit(2)


def run(arguments: list[str]) -> int:
    """Examine a run; 0 when done, 1 for a mistake found on the way, 2 on the command line, 130 when interrupted."""
    parser = _Parser(prog="python -m mae_vlm robustness", allow_abbrev=False, add_help=False)
    parser.add_argument("run")
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--seed", type=int, default=0)
    try:
        own, rest = parser.parse_known_args(arguments)
        if own.pictures < 1:
            parser.error(f"--pictures {own.pictures} given, allowed is 1 or more")
        own.command = f"python -m mae_vlm robustness {shlex.join(arguments)}"
        Robustness(own, _checkpoint(own.run), rest)
    except ValueError as problem:
        complain(str(problem))
        return 1
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return 0


def _checkpoint(word: str) -> Path:
    """The file itself; of a run folder its best checkpoint where there is one that is whole, else the newest.

    Raises:
        ValueError: there is none.
    """
    folder = Path(word)
    if not folder.is_dir() or pieces.in_pieces(folder):
        return native.find_checkpoint(folder)
    best = folder / "checkpoints" / "best.ckpt"
    if best.exists():
        damage = storage.damage(best)
        if damage is None:
            say(f"checkpoint: {best} (the best by the head's own metric)")
            return best
        say(f"{best} is damaged: {damage}; taking the newest whole one")
    newest = native.newest_whole(folder)
    say(f"checkpoint: {newest} (the newest; name a .ckpt file for another)")
    return newest


class Robustness(Training):
    """``validate`` up to the point where it would measure; then measures much more, on one device."""

    def __init__(self, own: argparse.Namespace, checkpoint: Path, arguments: list[str]) -> None:
        self.own = own
        super().__init__("validate", ["--ckpt_path", str(checkpoint), *arguments, "--trainer.devices", "1"])

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            self.examine()
        except KeyboardInterrupt:
            say("stopped; nothing is written")
            sys.exit(130)
        except Exception as problem:
            self._tell(problem)

    def examine(self) -> None:
        """Measure, print the tables, and write them with plots and sheet.

        Raises:
            ValueError: a run without a head, no pictures to validate with, or none with a label or target.
        """
        if not isinstance(self.model, Finetuner):
            raise ValueError(f"{self.own.run} is a run without a head, of pretraining; train one: fit with --model.weights {self.own.run}")
        out = self.own.out or self.folder / "robustness"
        _check_writable(out)
        found, shown = self._examined(self._loader())
        for one in found:
            say(f"\n{table.screen(one)}\n")
        for one in found:
            _write(out / ("robustness.svg" if len(found) == 1 else f"robustness_{one.head}.svg"), svg(one).encode())
        _write(out / "robustness.csv", table.table_csv(found).encode())
        _write(out / "robustness.md", table.markdown(found, self.own.command).encode())
        _write(out / "pictures.png", encode_png(shown).numpy().tobytes())

    def _loader(self) -> Any:
        data = self.datamodule
        data.trainer = None  # all pictures belong to this process
        loader = data.val_dataloader()
        if not loader:
            raise ValueError("there are no validation pictures; give some with --data.path, --data.val_path or --data.val_fraction")
        order = loader.sampler
        order.shuffle = Selection(order.length, self.own.pictures, self.own.seed)
        order.length = order.shuffle.length
        return loader

    def _examined(self, loader: Any) -> tuple[list[Findings], Tensor]:
        plugin = self.trainer.precision_plugin
        model = cast(Finetuner, plugin.convert_module(self.model))
        assert self.checkpoint is not None
        model.load_state_dict(native.read(self.checkpoint)[1])
        model.to(self.trainer.strategy.root_device)
        progress = _Progress(loader.sampler.length)
        examination = Examination(model, self.own.seed, plugin.forward_context, progress.done)
        progress.cost = examination.cost
        say(f"{progress.pictures:,} validation pictures, each seen in {len(examination.families) + 1} kinds of damage")
        shown = None
        for batch in loader:
            shown = sheet(examination.sample(batch, _SHOWN)) if shown is None else shown
            examination.add(batch)
        assert shown is not None
        return examination.findings(), shown


def _check_writable(out: Path) -> None:
    """See that the findings can be written, before they are looked for, without making anything.

    Raises:
        ValueError: they cannot.
    """
    there = next(place for place in (out, *out.parents) if place.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise ValueError(f"nothing can be written to {out}: {there} is not a folder that you may write to; set --out")


def _write(file: Path, content: bytes) -> None:
    storage.write_whole(file, lambda opened: opened.write(content))
    say(f"wrote {file}")


class _Progress:
    """A line now and then: what share is done, and the time left."""

    def __init__(self, pictures: int) -> None:
        self.pictures, self.cost = pictures, 1.0
        self._done, self._began = 0.0, time.monotonic()
        self._printed = self._began

    def done(self, cost: float) -> None:
        self._done += cost
        now, share = time.monotonic(), self._done / (self.cost * self.pictures)
        if now - self._printed >= _SECONDS and 0 < share < 1:
            self._printed = now
            minutes, seconds = divmod(round((now - self._began) * (1 - share) / share), 60)
            say(f"{share:.0%} done, {minutes}:{seconds:02d} left")
