"""Options that the verbs share, and the opening of what they name."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from data_prep.console import complain

if TYPE_CHECKING:
    from mae_vlm.data.problems import Problems
    from mae_vlm.data.sources.base import Source

COLUMNS = ("image", "label", "caption", "question", "answer", "split")
ENGINES = ("local", "ray")


class Parser(argparse.ArgumentParser):
    """An argument parser of one verb that tells a mistake in one line."""

    def __init__(self, verb: str, description: str) -> None:
        super().__init__(prog=f"python -m data_prep {verb}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        complain(f"{message}; {self.prog} --help shows how")
        sys.exit(2)


def at_least(least: int) -> type[int]:
    """A whole number from ``least`` up, as argparse's ``type``."""

    def number(text: str) -> int:
        if not text.lstrip("-").isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} given, allowed is a whole number from {least} up")
        return int(text)

    return number  # type: ignore[return-value]  # argparse calls it


def add_source(parser: Parser) -> None:
    """SRC and how it is to be read."""
    parser.add_argument(
        "source", metavar="SRC", help="what data.path of mae_vlm takes: a folder, tables, shards, or hf://datasets/org/name"
    )
    parser.add_argument("--format", default="auto", help="as data.format: how SRC is written down (default: told by its content)")
    parser.add_argument(
        "--annotations", action="append", default=[], metavar="FILE", help="as data.annotations; may be given several times"
    )
    parser.add_argument(
        "--value-range", nargs=2, type=float, metavar=("LOW", "HIGH"), help="as data.value_range: the file values that are black and white"
    )
    for column in COLUMNS:
        parser.add_argument(f"--{column}-column", metavar="NAME", help=argparse.SUPPRESS)


def add_engine(parser: Parser) -> None:
    """Where and by how many processes the work is done."""
    parser.add_argument("--workers", type=at_least(1), default=cores(), metavar="N", help="processes (default: %(default)s, the cores)")
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="local",
        help="local: processes of this machine; ray: a Ray cluster (RAY_ADDRESS, else one started here) whose machines see the same files",
    )


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_parts(options: argparse.Namespace, path: str | None = None, like: Source | None = None) -> tuple[dict[str, Source], str, Problems]:
    """Sources by part ("train", "val", "test", or "all"), the format, and what is wrong with the annotations.

    ``path`` is opened instead of SRC where given; its class numbers follow ``like``.

    Raises:
        ValueError: the path does not exist or holds no picture, or an option does not fit it.
    """
    from mae_vlm.data.collection import open_collection
    from mae_vlm.data.problems import Problems
    from mae_vlm.data.sources.base import Columns, Place

    columns = Columns(**{column: getattr(options, f"{column}_column") for column in COLUMNS})
    problems = Problems()
    known = (like.classes, like.object_classes) if like else (None, None)
    place = Place(path or options.source, (), columns, tuple(options.annotations), *known, problems)
    found = open_collection(place, options.format)
    return found.parts, found.format, problems
