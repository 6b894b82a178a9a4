"""The argument parser of the training verbs: LightningCLI's, with one-line errors."""

from __future__ import annotations

import re
import sys
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from mae_vlm.cli.console import complain
from mae_vlm.cli.mistakes import one_line


class Parser(LightningArgumentParser):
    """A LightningArgumentParser that tells a mistake in one line instead of pages of usage, and takes no option cut short."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False} | kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        parsers = [self, *(parser for action in self._actions if isinstance(action.choices, dict) for parser in action.choices.values())]
        options = [option for parser in parsers for action in parser._actions for option in action.option_strings]
        complain(one_line(message, options))
        sys.exit(2)

    def parse_args(self, args: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """As in jsonargparse (4.53), which hands an option of a nested class on as text and writes ``null`` as ``None`` there."""
        return super().parse_args(args and [re.sub(r"^(--[\w.]+)=None$", r"\1=null", word) for word in args], **kwargs)


def flat(arguments: list[str], configs: list[dict[str, Any]]) -> dict[str, Any]:
    """Everything that was said explicitly, as flat dotted keys: configs first, then ``--key value`` and ``--key=value``."""
    said: dict[str, Any] = {}
    for config in configs:
        said |= _flatten(config)
    for here, following in zip(arguments, [*arguments[1:], ""], strict=False):
        if here.startswith("--"):
            key, equals, value = here[2:].partition("=")
            said[key] = value if equals else following
    return said


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for key, value in config.items():
        rows[prefix + key] = value
        if isinstance(value, dict):
            rows |= _flatten(value, f"{prefix}{key}.")
    return rows
