"""``python -m mae_vlm ablate --config X --vary KEY=V1,V2 --seeds N``."""

from __future__ import annotations

import argparse
import fcntl
import math
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from mae_vlm.ablation import table
from mae_vlm.ablation.comparison import Comparison, compare
from mae_vlm.ablation.outcomes import LINEAR, Outcome, document, read
from mae_vlm.ablation.plan import Choice, Job, Length, check_given, choices, jobs, short_names
from mae_vlm.ablation.plot import svg
from mae_vlm.ablation.running import Runner, devices, identity, refused
from mae_vlm.commands.arguments import Arguments, complain

_ABOUT = """Run what `fit` with the same options would run, small, once for every choice and seed, and tell which choice earned its cost on
this data. A finished run is not run again and a run that was cut off goes on, so the same command may be given as often as needed."""
_EXAMPLE = """every other option is one of fit, as --data.path MY_PHOTOS. Several --vary make the product; a value with commas is written as
[0.5, 0.5], one of a class by its class path.

  python -m mae_vlm ablate --config X --vary model.masking.init_args.ratio=0.6,0.75,0.9 --seeds 3 --steps 2000"""


def main(arguments: list[str]) -> int:
    """Run and compare; 0 when every run has finished, 1 when one has not, 2 for a mistake in the options, 128 + a signal's number."""
    options, given = _parser().parse_known_args(arguments)
    length = Length(options.steps, options.minutes)
    try:
        varied = choices(options.vary)
        check_given(given, length, varied)
        if options.by and "loss" in options.by:
            raise ValueError(f"--by {options.by}: a lower loss is not a better feature; rank by a score, as {LINEAR}")
        out = Path(options.out) if options.out else _default_out(varied)
        planned = jobs(varied, options.seeds, out)
        todo = _todo(planned, given, length)
        if todo and (problem := refused([Job(one, 0, out).words(given, length) for one in varied])):
            place, line = problem
            raise ValueError(f"{line} (with {varied[place].label})")
        with _alone(out) as lock:
            stopped = _run(todo, given, length, options, lock)
            return _tell(planned, arguments, out, options.by) if not stopped else _stopped(stopped, planned, out)
    except (ValueError, OSError) as problem:
        complain(problem)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = Arguments("ablate", _ABOUT, epilog=_EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--vary", action="append", required=True, metavar="KEY=V1,V2", help="an option of fit and its values; may be repeated"
    )
    parser.add_argument(
        "--seeds", type=_count, default=3, metavar="N", help="seeds 0 to N-1 for every choice; with one nobody wins (default: 3)"
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=_count, metavar="N", help="optimizer steps of a run (default: the config's own length)")
    length.add_argument("--minutes", type=_minutes, metavar="M", help="minutes of a run, as fit's max_time: its steps are planned to fit")
    parser.add_argument("--parallel", type=_count, metavar="K", help="runs at once (default: one for each CUDA device, one on a CPU)")
    parser.add_argument("--devices", metavar="0,1", help="CUDA devices to deal runs to (default: all that are visible)")
    parser.add_argument("--by", metavar="TAG", help=f"the tag of metrics.csv that ranks, higher is better (default: {LINEAR}, or recall)")
    parser.add_argument("--out", metavar="DIR", help="folder of runs, table and plot (default: runs/ablation/<what varies>)")
    return parser


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} given, allowed is a whole number from 1 up")
    return int(text)


def _minutes(text: str) -> float:
    with suppress(ValueError):
        if 1 / 60 <= float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} given, allowed is a number of minutes, as 10 or 0.5")


def _default_out(varied: list[Choice]) -> Path:
    return Path("runs") / "ablation" / "_".join(short_names([key for key, _ in varied[0].options]))


def _todo(planned: list[Job], given: list[str], length: Length) -> list[Job]:
    """The jobs that have not finished.

    Raises:
        ValueError: a folder holds a run of other options, or of a config that has changed since.
    """
    for job in planned:
        there = document(job.record).get("made_of")
        if there is not None and there != identity(given, length, job):
            raise ValueError(
                f"{job.root} holds {job.label} of other options, or of a config that has changed; give another --out, or remove it"
            )
    return [job for job in planned if read(job).state != "finished"]


@contextmanager
def _alone(out: Path) -> Iterator[int]:
    """Keep a second ablation out of the folder while this one, or a run that inherits the lock, is alive; gives the lock's descriptor."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "lock").open("a") as lock:
        _take(lock, out)
        yield lock.fileno()


def _take(lock: IO[str], out: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as problem:
        raise ValueError(
            f"another ablation, or a run that it left behind, is at work in {out}; wait for it, or give another --out"
        ) from problem
    except OSError:
        pass  # a file system without locks


def _run(todo: list[Job], given: list[str], length: Length, options: argparse.Namespace, lock: int) -> int:
    """Run what is to be run; the number of the signal that stopped it, 0 for none."""
    if not todo:
        return 0
    cuda = [name.strip() for name in options.devices.split(",")] if options.devices else devices(given)
    parallel = options.parallel or max(1, len(cuda))
    print(f"{len(todo)} runs to go, {parallel} at a time" + (f", on CUDA devices {', '.join(cuda)}" if cuda else ""), flush=True)
    seen = 0

    def told(outcome: Outcome) -> None:
        nonlocal seen
        seen += 1
        tag = options.by or LINEAR  # and no loss: whether it may be compared is told when all have run
        score = f"{tag} {outcome.last[tag]:.4f}, " if tag in outcome.last else ""
        said = f"{score}{outcome.seconds or 0:.0f} s" if outcome.state == "finished" else outcome.reason
        print(f"[{seen}/{len(todo)}] {outcome.job.label}: {outcome.state}, {said}", flush=True)

    runner = Runner(given, length, parallel, cuda if parallel > 1 or options.devices else [], told, lock)
    runner.run(todo)
    return runner.received


def _tell(planned: list[Job], arguments: list[str], out: Path, by: str | None) -> int:
    comparison = compare([read(job) for job in planned], by)
    files = _write(comparison, f"python -m mae_vlm ablate {shlex.join(arguments)}", out)
    print(f"\n{table.screen(comparison)}\n")
    for file in files:
        print(f"wrote {file}")
    return 0 if all(one.state == "finished" for one in comparison.outcomes) else 1


def _write(comparison: Comparison, command: str, out: Path) -> list[Path]:
    drawn = svg(comparison)
    contents = {"ablation.csv": table.table_csv(comparison), "ablation.md": table.markdown(comparison, command), "ablation.svg": drawn}
    for name, content in contents.items():
        (out / name).unlink(missing_ok=True)  # a plot of before must not stand beside a table of now
        if content is not None:
            (out / name).write_text(content)
    return [out / name for name, content in contents.items() if content is not None]


def _stopped(number: int, planned: list[Job], out: Path) -> int:
    done = sum(read(job).state == "finished" for job in planned)
    print(f"stopped; {done} of {len(planned)} runs in {out} have finished; go on with the same command", flush=True)
    return 128 + number
