"""``python -m mae_vlm convert SRC --to FORMAT --out DIR``."""

from __future__ import annotations

from mae_vlm.commands.arguments import Arguments, complain


def main(arguments: list[str]) -> int:
    """Convert a run's encoder; 0 when written, 1 when the source or the target is at fault."""
    parser = Arguments("convert", "Write the encoder of a run or a checkpoint in another format.")
    parser.add_argument("source", metavar="RUN", help="a run folder, or a .ckpt file")
    parser.add_argument("--to", required=True, choices=["timm"], help="timm: config.json and model.safetensors for timm's local-dir: names")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write; nothing in it is overwritten")
    parser.add_argument("--weights", default="raw", choices=["raw", "ema"], help="raw: as trained (default); ema: their moving average")
    options = parser.parse_args(arguments)

    from mae_vlm.convert import native, timm  # torch is imported only now: the help above must not wait for it

    try:
        files = timm.write(native.read_encoder(options.source, options.weights), options.out)
    except (ValueError, OSError) as problem:
        complain(problem)
        return 1
    for file in files:
        print(f"wrote {file}")
    print(f'open it:  timm.create_model("local-dir:{options.out}", pretrained=True)')
    return 0
