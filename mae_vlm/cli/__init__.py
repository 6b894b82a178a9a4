"""The command line: which verb, and nothing heavy before it is known."""

from __future__ import annotations

import difflib
import sys
from importlib import import_module

TRAINING = {
    "fit": "train: pretrain an encoder (default: on generated scenes), or go on with --ckpt_path",
    "validate": "the validation loss of a trained run: --ckpt_path RUN",
    "test": "the same on the test part",
    "predict": "features of every picture as parquet: --ckpt_path RUN --data.path FOLDER --out OUT",
}
COMMANDS = {
    "doctor": "is the loader or the model the bottleneck: doctor --config X",
    "convert": "write a run's encoder in another format: convert RUN --to timm --out DIR",
}

DOCTOR = """usage: python -m mae_vlm doctor [options of fit]

Runs some steps of what `fit` with the same options would run, for about half a minute, and says whether its loader or its model
is the bottleneck, with the one setting to change, and whether /dev/shm is large enough. It measures one process and writes nothing.

  python -m mae_vlm doctor --config X
  python -m mae_vlm doctor --data.path MY_PHOTOS --data.num_workers 8"""

USAGE = """usage: python -m mae_vlm VERB [options]      (python -m mae_vlm VERB --help tells its options)

{verbs}

first steps:
  python -m mae_vlm fit                              the demo: pretrain on generated scenes
  python -m mae_vlm fit --data.path MY_PHOTOS        pretrain on your own pictures
  python -m mae_vlm convert RUN --to timm --out DIR  take the encoder along"""


def main(arguments: list[str]) -> int:
    """Run one verb and return the exit code: 0 done, 1 a mistake found while building the run, 2 a mistake on the command line."""
    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help", "help"):
        rows = (f"  {name:<10} {text}" for name, text in (TRAINING | COMMANDS).items())
        print(USAGE.format(verbs="\n".join(rows)))
        return 0
    if verb == "--version":
        from mae_vlm import __version__

        print(__version__)
        return 0
    if verb in TRAINING:
        from mae_vlm.cli.training import run

        return run(verb, arguments[1:])
    if verb == "doctor":
        return _doctor(arguments[1:])
    if verb in COMMANDS:
        command = import_module(f"mae_vlm.commands.{verb}")
        code: int = command.main(arguments[1:])
        return code
    near = difflib.get_close_matches(verb, [*TRAINING, *COMMANDS], n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join([*TRAINING, *COMMANDS])}"
    print(f"mae_vlm: error: no verb {verb!r}; {hint}", file=sys.stderr)
    return 2


def _doctor(arguments: list[str]) -> int:
    if "-h" in arguments or "--help" in arguments:
        print(DOCTOR)
        return 0
    from mae_vlm.cli.doctor import run

    return run(arguments)
