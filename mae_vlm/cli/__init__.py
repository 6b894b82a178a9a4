"""The command line: which verb, and nothing heavy before it is known."""

from __future__ import annotations

import difflib
import sys
from importlib import import_module

TRAINING = {
    "fit": "train: pretrain an encoder (default: on generated scenes), or go on with --ckpt_path",
    "validate": "the validation loss of a trained run: --ckpt_path RUN",
    "test": "the same on the test part",
    "predict": "what a run says of every picture, or its features: --ckpt_path RUN --data.path FOLDER --out OUT",
}
COMMANDS = {
    "doctor": "is the loader or the model the bottleneck: doctor --config X",
    "tune": "a batch size and a learning rate, found in some minutes: tune --config X [--batch-size] [--lr]",
    "ablate": "which setting earns its cost: ablate --config X --vary KEY=V1,V2 --seeds 3 --steps N",
    "convert": "any model in another format: convert SRC --to native|timm|transformers|facebook|onnx --out DIR",
    "push": "upload a run with a model card, private by default: push RUN --repo org/name --license WORD",
    "vocabulary": "learn a vocabulary from the captions of a collection: vocabulary --data.path DATA --out FILE",
    "index": "a folder of pictures as an index to search: index FOLDER --weights RUN --out INDEX",
    "search": 'the nearest pictures of an index, with a page of them: search INDEX "a red square"',
    "zeroshot": "classify by names alone: zeroshot RUN --data.path FOLDER",
    "paint": 'a picture from words, or a part of one: paint RUN --words "a red square" --out x.png',
    "robustness": "what a fine-tuned run is worth on spoilt pictures: robustness RUN [--data.path X]",
    "report": "what a run learned, what it cost and what to change, as one page: report RUN",
}

DOCTOR = """usage: python -m mae_vlm doctor [options of fit]

Runs some steps of what `fit` with the same options would run, for about half a minute, and says whether its loader or its model
is the bottleneck, with the one setting to change, and whether /dev/shm is large enough. It measures one process and writes nothing.

  python -m mae_vlm doctor --config X
  python -m mae_vlm doctor --data.path MY_PHOTOS --data.num_workers 8"""

TUNE = """usage: python -m mae_vlm tune [--batch-size] [--lr] [--steps N] [--trials N] [--seconds S] [options of fit]

Tries batch sizes (doubling: on a GPU until the memory is full; on a CPU, whose memory would end the process, at most --trials of them in
--seconds, 60) and then learning rates (a range test of --steps optimizer steps, 100) on one process, prints the options to add, and
writes a picture of the rates into runs/NAME/tune_N. Without --batch-size or --lr it does both. It begins no run and keeps no weights.

  python -m mae_vlm tune --data.path MY_PHOTOS
  python -m mae_vlm tune --config X --lr"""

ROBUSTNESS = """usage: python -m mae_vlm robustness RUN [--pictures N] [--out DIR] [--seed S] [--data.path X] [options of validate]

Measures every head of a fine-tuned run (a folder, of which the best checkpoint is taken, or a .ckpt file) by its own metric on validation
pictures with common corruptions at five strengths, hidden patches and an attack; of classifiers also shuffled parts and how far their
scores can be trusted. Looks at --pictures of them (1000), drawn by --seed (0), and writes robustness.csv, robustness.md, robustness.svg
and pictures.png into RUN/robustness, or --out. Other data: --data.path, with labels of the same classes.

  python -m mae_vlm robustness runs/quick_classify/version_0
  python -m mae_vlm robustness RUN --pictures 200 --trainer.accelerator cpu"""

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
    if verb in ("doctor", "tune", "robustness"):
        return _on_a_config(verb, arguments[1:])
    if verb in COMMANDS:
        command = import_module(f"mae_vlm.commands.{verb}")
        code: int = command.main(arguments[1:])
        return code
    near = difflib.get_close_matches(verb, [*TRAINING, *COMMANDS], n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join([*TRAINING, *COMMANDS])}"
    print(f"mae_vlm: error: no verb {verb!r}; {hint}", file=sys.stderr)
    return 2


def _on_a_config(verb: str, arguments: list[str]) -> int:
    if "-h" in arguments or "--help" in arguments:
        print({"doctor": DOCTOR, "tune": TUNE, "robustness": ROBUSTNESS}[verb])
        return 0
    code: int = import_module(f"mae_vlm.cli.{verb}").run(arguments)
    return code
