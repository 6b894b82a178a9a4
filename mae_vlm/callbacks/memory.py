"""Memory that a training process and its loader workers hold."""

from __future__ import annotations

import multiprocessing
import os
import re
import time
from pathlib import Path

GIB = 2**30
_PROC = Path("/proc")


def resident(process: int, proc: Path = _PROC) -> int | None:
    """Bytes in memory of one process, each page that it shares with others counted in part (Linux' PSS); None where nobody tells."""
    try:
        text = (proc / str(process) / "smaps_rollup").read_text()
    except OSError:  # not Linux, or a worker that has just ended
        return None
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


class HostMemory:
    """Bytes of this process and the loader workers that it started, as of the last look, which takes at most 0.5 % of the time.

    The kernel walks every page for it, milliseconds for each gigabyte; shared pages (the pixels of a cache, a batch on its way) count once.
    """

    def __init__(self) -> None:
        self._next = 0.0
        self._held: int | None = None

    def look(self) -> int | None:
        """The bytes, looked up if it is time again; None where the system does not tell."""
        began = time.monotonic()
        if began < self._next:
            return self._held
        workers = [child.pid for child in multiprocessing.active_children()]
        own, *theirs = [resident(process) for process in (os.getpid(), *workers) if process is not None]
        ended = time.monotonic()
        self._next = ended + 200 * (ended - began)
        self._held = None if own is None else own + sum(count for count in theirs if count is not None)
        return self._held
