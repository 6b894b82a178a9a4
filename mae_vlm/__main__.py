"""``python -m mae_vlm``."""

from __future__ import annotations

import io
import sys

from mae_vlm.cli import main


def run() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name that is not UTF-8 must not end a run
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
