"""Error lines a person can act on, out of what the argument parser reports."""

from __future__ import annotations

import difflib
import inspect
import re
import traceback
from importlib import import_module
from pathlib import Path

_NOISE = re.compile(r"^(Does not validate|Subtypes:|Errors:|Given value|- Expected a <class 'NoneType'>|Expected a <class 'NoneType'>)")


def one_line(message: str, options: list[str]) -> str:
    """The heart of a parser's message in one line; ``options`` are the command line's, to guess what was meant."""
    unknown = re.search(r"Option '([\w.]+)' is not accepted", message)
    owner = re.findall(r"class_path '([\w.]+)'|class_path='([\w.]+)'", message)
    if unknown:
        path = next((a or b for a, b in reversed(owner)), "")
        near = difflib.get_close_matches(unknown[1], _parameters(path), n=1)
        allowed = f"did you mean {near[0]}?" if near else f"allowed are {', '.join(_parameters(path))}"
        return f"{path or 'the class'} has no option {unknown[1]!r}; {allowed}"
    stray = re.search(r"[Uu]nrecognized arguments: (\S+)", message)
    if stray:
        name = stray[1].split("=")[0]
        near = difflib.get_close_matches(name, options, n=1)
        return f"no option {name}" + (f"; did you mean {near[0]}?" if near else "; --help lists them")
    lines = [line.strip() for line in message.splitlines()]
    kept = [line for line in lines if line and not _NOISE.match(line) and not line.startswith("tip:")]
    return " ".join(line.removeprefix("- ") for line in kept)


def _parameters(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    try:
        signature = inspect.signature(getattr(import_module(module), name))
    except (ImportError, AttributeError, ValueError, TypeError):
        return []
    return [parameter for parameter in signature.parameters if parameter != "towers"]


def is_users(problem: BaseException) -> bool:
    """Whether an exception is the user's mistake, told by us: a ValueError raised in this package, or a file that is not there."""
    if not isinstance(problem, ValueError | FileNotFoundError | PermissionError):
        return False
    frames = traceback.extract_tb(problem.__traceback__)
    package = Path(__file__).parent.parent
    return bool(frames) and package in Path(frames[-1].filename).parents
