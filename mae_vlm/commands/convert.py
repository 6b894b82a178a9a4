"""``python -m mae_vlm convert SRC --to FORMAT --out DIR``."""

from __future__ import annotations

import argparse
from pathlib import Path

from mae_vlm.commands.arguments import Arguments, complain

_ABOUT = """Write a model in another format. SRC is told by its content: a run folder or checkpoint of ours, a folder of timm or of
transformers, a .pth of the MAE paper's code, of open_clip or of ALBEF (a folder that holds nothing else will do), or hf://org/name. A text
tower comes along to native where its tokenizer.json or vocab.txt lies beside. What has no place in the target is listed."""
_FORMS = {
    "native": "a run folder of ours, for --model.weights and mae_vlm.load",
    "timm": "config.json and model.safetensors for timm's local-dir: names",
    "transformers": "a ViTMAE folder",
    "facebook": "model.pth with the names of the MAE paper's code",
    "onnx": "model.onnx, and model.int8.onnx with --int8",
    "torch_export": "model.pt2, a program of torch.export",
}


def main(arguments: list[str]) -> int:
    """Convert a model; 0 when written, 1 when the source or the target is at fault."""
    options = _parser().parse_args(arguments)
    if options.to != "onnx" and (options.int8 or options.data):
        complain("--int8 and --data belong to --to onnx")
        return 2
    if options.to not in _GRAPHS and options.head:
        complain(f"--head belongs to --to {' and --to '.join(_GRAPHS)}")
        return 2
    try:
        return _GRAPHS.get(options.to, _convert)(options)
    except (ValueError, OSError) as problem:
        complain(" ".join(str(problem).split()))
        return 1


def _parser() -> Arguments:
    parser = Arguments(
        "convert",
        _ABOUT,
        epilog="\n".join(f"{name:<13} {text}" for name, text in _FORMS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SRC", help="what to convert")
    parser.add_argument("--to", required=True, choices=list(_FORMS), help="the format to write, see below")
    parser.add_argument("--out", required=True, metavar="DIR", type=Path, help="the folder to write; nothing in it is overwritten")
    parser.add_argument("--force", action="store_true", help="write into a folder that holds something, over files of the same names")
    parser.add_argument("--weights", default="raw", choices=["raw", "ema"], help="raw: as trained (default); ema: their moving average")
    parser.add_argument("--classifier", action="store_true", help="timm, facebook: a fine-tuned classifier with its last layer")
    parser.add_argument(
        "--head", metavar="NAME", help="onnx, torch_export: the head to export of a fine-tuned run; default: its only one, or the encoder"
    )
    parser.add_argument("--int8", action="store_true", help="onnx: also with 8-bit weights, deviation and speed beside float32's")
    parser.add_argument(
        "--data", metavar="DIR", type=Path, help="onnx: a collection whose held-out pictures int8 is measured on; default: noise"
    )
    return parser


def _convert(options: argparse.Namespace) -> int:
    from mae_vlm.convert.conversion import convert  # torch is imported only now: the help above must not wait for it

    made = convert(options.source, options.to, options.out, options.weights, options.force, options.classifier)
    for line in made.told:
        print(line)
    for file in made.files:
        print(f"wrote {file}")
    print(f"open it:  {made.opened}")
    return 0


def _onnx(options: argparse.Namespace) -> int:
    from mae_vlm.convert.onnx import export

    for line in export(options.source, options.out, options.weights, options.head, options.int8, options.data, options.force):
        print(line)
    return 0


def _program(options: argparse.Namespace) -> int:
    from mae_vlm.convert.program import export

    for line in export(options.source, options.out, options.weights, options.head, options.force):
        print(line)
    return 0


_GRAPHS = {"onnx": _onnx, "torch_export": _program}
