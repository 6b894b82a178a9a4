"""Files that a run can do without: what cannot be written is told in one line, and the training goes on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_told: set[str] = set()


@contextmanager
def expendable(what: str) -> Iterator[None]:
    """Go on where the system refuses to write ``what``, and say so once: again only after it has worked in between."""
    try:
        yield
    except OSError as problem:
        if what not in _told:
            _told.add(what)
            warn(f"{what} cannot be written: {problem.strerror or problem}; the run goes on without")
    else:
        _told.discard(what)


def warn(message: str) -> None:
    """One line on stderr, from the process that has something to say."""
    print(f"mae_vlm: warning: {message}", file=sys.stderr, flush=True)
