"""The arguments of a verb that does not train, with one-line errors."""

from __future__ import annotations

import argparse
import sys
from typing import Any, NoReturn


class Arguments(argparse.ArgumentParser):
    """The parser of ``python -m mae_vlm VERB``: a mistake is told in one line, and no option may be cut short."""

    def __init__(self, verb: str, description: str, **more: Any) -> None:
        super().__init__(prog=f"python -m mae_vlm {verb}", description=description, allow_abbrev=False, **more)

    def error(self, message: str) -> NoReturn:
        complain(f"{message}; {self.prog} --help shows how")
        sys.exit(2)


def complain(message: object) -> None:
    """One error line."""
    print(f"mae_vlm: error: {message}", file=sys.stderr)
