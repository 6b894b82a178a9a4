"""What our MAE weights are worth on CIFAR-10, beside transformers' ViTMAE: ``python -m tools.cifar_worth --help``.

Every finished unit (pretraining, probe or fine-tuning of one recipe and seed) writes one line of JSON under ``--out`` and is skipped
when that file is there, so the benchmark may be killed and started again at any time; a fine-tune goes on from its last hundred steps.
A unit makes what it needs first.

    python -m tools.cifar_worth evaluate --method ours --seeds 0 1 2
    python -m tools.cifar_worth evaluate --method transformers --seeds 0 1 2 --seconds-like ours
    python -m tools.cifar_worth finetune --method random --lr 1e-3 --multiple 4
    python -m tools.cifar_worth table
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

from mae_vlm.encoders.vit import Vit
from tools.cifar_pictures import load
from tools.finetune import Finetuning, finetune
from tools.mae_race import Recipe, pretrain
from tools.probe import evaluate
from tools.worth_table import markdown

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "cifar10"
METHODS = ("ours", "transformers", "random")


class Bench:
    """The units of the benchmark over one folder of results."""

    def __init__(self, out: Path, data: Path, threads: int) -> None:
        self.out, self.threads = out, threads
        self.train, self.val = load(data, "train"), load(data, "val")

    def pretrain(self, recipe: Recipe, like: str = "") -> None:
        """Weights of a recipe, as ``<slug>.pt``."""
        weights = self.out / f"{recipe.slug}.pt"
        if self._done(recipe.slug, "pretrain") and weights.exists():
            return
        scratch = self.out / f"{recipe.slug}.scratch"
        measured, state = pretrain(recipe, self.train, self.val, scratch, lambda line: print(f"{recipe.slug}: {line}", flush=True))
        torch.save(state, weights)
        self._write(recipe, "pretrain", measured | ({"seconds_like": like} if like else {}))

    def encoder(self, recipe: Recipe, like: str = "") -> Vit:
        """The encoder of a recipe; pretrained first when nobody did."""
        torch.manual_seed(recipe.seed)
        encoder = recipe.encoder()
        if recipe.method != "random":
            self.pretrain(recipe, like)
            encoder.load_state_dict(torch.load(self.out / f"{recipe.slug}.pt", weights_only=True))
        return encoder

    def evaluate(self, recipe: Recipe, like: str = "") -> None:
        """Linear probe and nearest neighbours of every block."""
        if not self._done(recipe.slug, "probe"):
            self._write(recipe, "probe", evaluate(self.encoder(recipe, like), self.train, self.val))

    def finetune(self, recipe: Recipe, setting: Finetuning, like: str = "") -> None:
        """Top-1 after fine-tuning on a few labels."""
        kind = finetune_kind(setting)
        if not self._done(recipe.slug, kind):
            kept = self.out / f"{recipe.slug}.{kind}.kept"
            result = finetune(self.encoder(recipe, like), recipe.method != "random", self.train, self.val, setting, kept)
            self._write(recipe, kind, result | {"finetuning": asdict(setting)})
            kept.unlink(missing_ok=True)

    def like(self, recipe: Recipe, other: str) -> Recipe:
        """The recipe with the steps that fit into the seconds of ``other`` (a method or a pretrain file) at equal pictures.

        Raises:
            ValueError: one of the two was not measured yet.
        """
        path = Path(other)
        if other in METHODS:
            path = self._file(replace(recipe, method=other).slug, "pretrain")
        own = self._file(recipe.slug, "pretrain")
        for file in (path, own):
            if not file.exists():
                raise ValueError(f"--seconds-like {other} needs {file}, which is not there; run pretrain for both at equal pictures first")
        theirs, ours = json.loads(path.read_text())["result"], json.loads(own.read_text())["result"]
        return replace(recipe, steps=max(1, round(recipe.steps * theirs["seconds"] / ours["seconds"])))

    def _file(self, slug: str, kind: str) -> Path:
        return self.out / f"{slug}.{kind}.json"

    def _done(self, slug: str, kind: str) -> bool:
        return self._file(slug, kind).exists()

    def _write(self, recipe: Recipe, kind: str, result: dict[str, Any]) -> None:
        where = {"threads": self.threads, "torch": torch.__version__, "load_average": os.getloadavg()[0]}
        line = json.dumps({"kind": kind.split("-")[0], "recipe": asdict(recipe), "result": result, "machine": where})
        part = self._file(recipe.slug, kind).with_suffix(".part")
        part.write_text(line + "\n")
        part.replace(self._file(recipe.slug, kind))
        shown = {name: round(value, 4) for name, value in result.items() if isinstance(value, float)}
        print(f"{recipe.slug} {kind}: {shown}", flush=True)


def finetune_kind(setting: Finetuning) -> str:
    """A file name's middle: rate and length, then what differs from the defaults."""
    usual = Finetuning()
    head = f"finetune-lr{setting.lr}-x{setting.multiple}"
    named = {field.name: getattr(setting, field.name) for field in fields(setting) if field.name not in ("lr", "multiple")}
    return "-".join([head, *(f"{name}{value}" for name, value in named.items() if value != getattr(usual, name))])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.cifar_worth", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("verb", choices=["pretrain", "evaluate", "finetune", "table"])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, default=Path("runs/cifar_worth"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--seconds-like", default="", help="a method or a pretrain JSON whose seconds the steps are scaled to")
    parser.add_argument("--method", choices=METHODS, default="ours")
    for field in fields(Recipe):
        if field.name not in ("method", "seed"):
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    for field in fields(Finetuning):
        name = {"batch": "finetune-batch", "weight_decay": "finetune-decay", "seed": ""}.get(field.name, field.name)
        if name:
            parser.add_argument(f"--{name.replace('_', '-')}", dest=f"tune_{field.name}", type=type(field.default), default=field.default)
    return parser


def _run(options: argparse.Namespace) -> None:
    bench = Bench(options.out, options.data, options.threads)
    for seed in options.seeds:
        named = {field.name: getattr(options, field.name) for field in fields(Recipe) if field.name != "seed"}
        recipe, like = Recipe(**named, seed=seed), options.seconds_like
        if like:
            recipe = bench.like(recipe, like)
        if options.verb == "pretrain":
            bench.pretrain(recipe, like)
        elif options.verb == "evaluate":
            bench.evaluate(recipe, like)
        else:
            tuned = {field.name: getattr(options, f"tune_{field.name}", seed) for field in fields(Finetuning)}
            bench.finetune(recipe, Finetuning(**tuned), like)


def main() -> int:
    """Run one verb; 0 also when the pictures are absent, which is said."""
    options = _parser().parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.verb == "table":
        print(markdown(options.out))
        return 0
    if not options.data.is_dir():
        print(f"skipped: no CIFAR-10 at {options.data}; give its folder (train/ and val/ with parquet files) with --data")
        return 0
    torch.set_num_threads(options.threads)
    try:
        _run(options)
    except ValueError as problem:
        print(problem, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
