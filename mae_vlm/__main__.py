"""``python -m mae_vlm``."""

from __future__ import annotations

import sys

from mae_vlm.cli import main


def run() -> None:
    """Entry point of the console script."""
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
