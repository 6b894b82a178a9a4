"""``python -m data_prep VERB``: which verb, and nothing heavy before it is known."""

from __future__ import annotations

import difflib
import io
import sys
from importlib import import_module

from data_prep.console import complain

VERBS = {
    "shards": "turn any collection into WebDataset tar shards: shards SRC DST --short-side 256",
    "check": "read everything and report what is wrong, with near-duplicates: check SRC [VAL] --out REPORT",
    "split": "make train and val lists that respect groups: split SRC --out DIR --group-pattern '^(patient\\d+)'",
    "statistics": "mean and deviation of each channel, as data.mean and data.std take them: statistics SRC",
}
USAGE = """usage: python -m data_prep VERB SRC [options]      (python -m data_prep VERB --help tells its options)

{verbs}

SRC is whatever --data.path of mae_vlm takes: a folder, .parquet tables, .tar shards, an annotated set, hf://datasets/org/name."""


def main(arguments: list[str]) -> int:
    """Run one verb and return the exit code: 0 done, 1 a mistake in the data, 2 a mistake on the command line, 130 stopped by Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names are bytes, and a terminal may know fewer letters
    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help", "help"):
        print(USAGE.format(verbs="\n".join(f"  {name:<12} {text}" for name, text in VERBS.items())))
        return 0
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        complain(f"no verb {verb!r}; " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(VERBS)}"))
        return 2
    try:
        code: int = import_module(f"data_prep.{verb}").main(arguments[1:])
    except (ValueError, OSError) as problem:
        complain(str(problem))
        return 1
    except KeyboardInterrupt:
        complain(
            "stopped; what is finished is kept, the same command goes on from there" if verb == "shards" else "stopped; nothing was written"
        )
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
