"""Two steps of each published recipe of a fine-tuning, at its own size, on generated scenes.

``python -m tools.recipe_steps configs/finetune/coco_base.yaml ...`` (all published ones without a name) runs each through the real command
line in a process of its own: pictures, encoder and head at full size, ``--batch`` pictures a step and the seven classes of the scenes, from
random weights. Prints the losses, seconds, and the most memory that the process held; 1 where one failed. More options after ``--`` go to
the command, as ``-- --trainer.accelerator cpu``.
"""

from __future__ import annotations

import argparse
import csv
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPES = Path(__file__).resolve().parents[1] / "configs" / "finetune"
_STEPS = 2


def published() -> list[Path]:
    """Recipes of the literature: those of a size."""
    return sorted(path for path in RECIPES.glob("*_*.yaml") if path.stem.rpartition("_")[2] in ("small", "base", "large", "huge"))


def command(recipe: Path, batch: int, root: Path) -> list[str]:
    """The words of ``python -m mae_vlm`` that step a recipe."""
    length = ["--trainer.max_steps", str(_STEPS), "--trainer.max_epochs", "null", "--trainer.val_check_interval", str(_STEPS)]
    data = ["--data.path", "null", "--data.scenes", str(_STEPS * batch), "--data.val_scenes", "1", "--data.batch_size", str(batch)]
    quiet = ["--trainer.log_every_n_steps", "1", "--probes.pictures", "0", "--pictures.count", "1", "--pictures.encoder", "false"]
    return ["fit", "--config", str(recipe), *data, *length, *quiet, "--trainer.default_root_dir", str(root), "--name", recipe.stem]


def losses(root: Path) -> list[float]:
    """The training loss of each step that a run under ``root`` has told."""
    found = []
    for file in root.rglob("metrics.csv"):
        with file.open(newline="") as opened:
            found += [float(row["train/loss"]) for row in csv.DictReader(opened) if row.get("train/loss")]
    return found


def main(arguments: list[str]) -> int:
    ours, more = (arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]) if "--" in arguments else (arguments, [])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("recipes", nargs="*", type=Path, help="configs; all published ones where none is named")
    parser.add_argument("--batch", type=int, default=1, help="pictures of a step")
    options = parser.parse_args(ours)
    failed = 0
    for recipe in options.recipes or published():
        with tempfile.TemporaryDirectory() as folder:
            begin = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "mae_vlm", *command(recipe, options.batch, Path(folder)), *more], capture_output=True, text=True
            )
            seconds, told = time.perf_counter() - begin, losses(Path(folder))
        whole = done.returncode == 0 and len(told) == _STEPS
        failed += not whole
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # of the largest child so far
        said = f"losses {', '.join(f'{value:.4f}' for value in told)}" if whole else f"failed: {done.stderr.strip().splitlines()[-1:]}"
        print(f"{recipe.stem:<24} {said}   {seconds:.0f} s, at most {memory:.1f} GiB so far", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
