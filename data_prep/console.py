"""What the user sees: lines, one-line mistakes in the words of this command line, and a progress bar."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def say(message: str) -> None:
    """One line on stdout."""
    print(message, flush=True)


def complain(message: str) -> None:
    """One error line on stderr; options of mae_vlm that it names are called as they are here."""
    text = " ".join(message.split())
    text = re.sub(r"\bdata\.path\b", "SRC", text)
    text = re.sub(r"\bdata\.(\w+)", lambda option: f"--{option[1].replace('_', '-')}", text)
    print(f"data_prep: error: {text}", file=sys.stderr, flush=True)


def with_bar(items: Iterable[tuple[int, Item]], total: int, what: str) -> Iterator[Item]:
    """Passes ``(pictures, item)`` on as item while a bar on stderr counts the pictures up to ``total``."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(what, total=total)
        for pictures, item in items:
            progress.advance(bar, pictures)
            yield item
