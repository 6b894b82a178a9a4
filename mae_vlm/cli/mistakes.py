"""Error lines a person can act on, out of what the argument parser and the classes report."""

from __future__ import annotations

import difflib
import errno
import re
import traceback
from importlib import import_module
from pathlib import Path

_NOISE = re.compile(r"^(Does not validate|Subtypes:|Errors:|Given value|- Expected a <class 'NoneType'>|Expected a <class 'NoneType'>)")
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_FEW = 20  # options that fit into a line


def one_line(message: str, options: list[str]) -> str:
    """The heart of a parser's message in one line; ``options`` are those of the parser that complains, to guess what was meant."""
    names = [option.removeprefix("--") for option in options if option.startswith("--") and not option.endswith((".help", "--help"))]
    stray = re.search(r"[Uu]nrecognized arguments: --([^\s=]+)", message)
    if stray:
        dashes = "--" if "config" in names else ""  # the parser of a class tells its own options
        return f"no option {dashes}{stray[1]}{_meant(stray[1], names, dashes) or '; --help lists them'}"
    unknown = re.search(r"(?:Option|does not accept option) '([\w.]+)'", message)
    if unknown:
        allowed = f"; allowed are {', '.join(names)}" if len(names) <= _FEW else ""
        return f"no option {unknown[1]!r} there{_meant(unknown[1], names) or allowed}"
    key = re.search(r'Parser key "([\w.]+)":', message)
    place = f"{key[1]}: " if key else ""
    value = re.search(r"(?:Given|Got) value: (.*)", message)
    kinds = [kind for kind in re.findall(r"Expected a <class '([\w.]+)'>", message) if kind != "NoneType"]
    if value and kinds:
        return f"{place}{value[1]!r} given, allowed is {' or '.join(dict.fromkeys(kinds))}"
    return place + (_class_problem(message) or _plain(message))


def _meant(name: str, names: list[str], dashes: str = "") -> str:
    """A guess, by the whole name or else by its first part; empty where nothing is near."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.75)
    first = name.partition(".")[0]
    if not near and first not in names:
        near = difflib.get_close_matches(first, names, n=1, cutoff=0.75)
    return f"; did you mean {dashes}{near[0]}?" if near else ""


def _class_problem(message: str) -> str:
    denied = re.search(r"Importing '([\w.]+)' is not allowed", message)
    if denied:
        return f"{denied[1]} is not imported because a checkpoint names it; if you trust it, name it yourself in the command"
    missing = re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message)
    if missing:
        return f"{missing[1]} has no class {missing[2]}{_meant(missing[2], dir(import_module(missing[1])))}"
    absent = re.search(r"class_path '([\w.]+)':\s*No module named '([\w.]+)'", message)
    if absent:
        return f"{absent[1]} cannot be imported: there is no module {absent[2]}"
    other = re.search(r"Import path (\S+) does not correspond to a subclass of (\w+)", message)
    return f"{other[1]} is not a {other[2]}" if other else ""


def _plain(message: str) -> str:
    lines = [line.strip() for line in re.sub(r'Parser key "[\w.]+":', "", message).splitlines()]
    kept = [line for line in lines if line and not _NOISE.match(line) and not line.startswith("tip:")]
    return " ".join(line.removeprefix("- ") for line in kept)


def users_mistake(problem: BaseException) -> BaseException | None:
    """The user's mistake in an exception: a ValueError raised in this package, a file that is not there, a disk without room; else None.

    jsonargparse wraps what a class raises while it is built; the original is taken out of that wrapping, and out of no other.
    """
    if isinstance(problem, ValueError) and (in_worker := _from_worker(str(problem))):
        return ValueError(in_worker)
    if isinstance(problem, OSError) and problem.errno in _DISK:
        return problem
    package = Path(__file__).parent.parent
    seen: BaseException | None = problem
    while seen is not None:
        frames = traceback.extract_tb(seen.__traceback__)
        raised_in = Path(frames[-1].filename) if frames else Path()
        if isinstance(seen, ValueError | FileNotFoundError | PermissionError) and package in raised_in.parents:
            return seen
        if raised_in.parent.name != "jsonargparse":
            return None
        seen = seen.__cause__ or seen.__context__
    return None


def _from_worker(message: str) -> str:
    """The line that a ValueError of this package said in a loader's worker, out of the traceback that torch makes its message; or empty."""
    if not message.startswith("Caught ValueError in DataLoader worker"):
        return ""
    files = re.findall(r'File "([^"]+)", line', message)
    last = re.findall(r"^ValueError: (.*)$", message, re.MULTILINE)
    return last[-1] if files and last and Path(__file__).parent.parent in Path(files[-1]).parents else ""
