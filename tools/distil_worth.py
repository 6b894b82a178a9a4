"""What a teacher is worth to a smaller encoder, on CIFAR-10: ``python -m tools.distil_worth --help``.

The same small ViT, without any label, from the same pictures and crops and for the same processor seconds: by pixels alone (MAE), by a
trained teacher's features (``mae_vlm.objectives.distil``), and not at all; then a linear probe of each. Size and speed of teacher and
student stand beside it, measured in turn in one run. Each finished unit writes a file under ``--out`` and is not done again.

    python -m tools.distil_worth --teacher runs/cifar_worth/ours-seed0-3960steps-d2x64.pt --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.heads.parts.linear_probe import standardised
from mae_vlm.learners.optim import AdamW
from mae_vlm.objectives.base import Objective
from mae_vlm.objectives.distil import Distil
from mae_vlm.objectives.pixels import Pixels
from mae_vlm.tokens.masking import RandomMask
from tools.cifar_pictures import Pictures, keys, load, order
from tools.cifar_worth import DATA
from tools.mae_race import Recipe
from tools.probe import block_features, linear_probe

ARMS = ("random", "pixels", "distil", "both")
STUDENT = Recipe(width=64, depth=4, heads=2, batch=128)


class Learner(torch.nn.Module):
    """A student and what it learns by: batches to losses, and the encoder for the probe."""

    def __init__(self, arm: str, teacher: Vit, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.towers, self.mask = Towers(STUDENT.encoder()), RandomMask(STUDENT.mask_ratio)
        depth, width = STUDENT.decoder_sizes()
        view = "full" if arm == "distil" else "masked"
        built: dict[str, Callable[[Towers], Objective]] = {
            "pixels": partial(Pixels, width=width, depth=depth),
            "distil": partial(Distil, encoder=teacher, view=view),
        }
        names = {"random": [], "both": ["pixels", "distil"]}.get(arm, [arm])
        self.objectives = torch.nn.ModuleDict({name: built[name](self.towers) for name in names})

    def forward(self, pictures: Pictures, step: int, seed: int) -> Tensor:
        """The loss of a step's batch; order and crops depend on seed and step alone."""
        epoch, place = divmod(step, len(pictures) // STUDENT.batch)
        index_B = order(len(pictures), seed, epoch)[place * STUDENT.batch : (place + 1) * STUDENT.batch]
        batch = pictures.batch(index_B, keys(seed, epoch, index_B), STUDENT.scale_min)
        features = Features(self.towers, batch, self.mask)
        return torch.stack([objective(features, batch).value for objective in self.objectives.values()]).sum()


def train(learner: Learner, pictures: Pictures, steps: int, seed: int) -> dict[str, float]:
    """All steps of a run; its last loss and its processor seconds."""
    rule = AdamW(STUDENT.base_lr, (0.9, STUDENT.beta2), STUDENT.weight_decay, STUDENT.warmup)
    optimizer, schedule = rule.build(learner, STUDENT.batch, steps)
    learner.train()
    began, loss = time.process_time(), torch.zeros(())
    for step in range(steps):
        loss = _step(learner, pictures, step, seed, optimizer)
        schedule.step()
    return {"steps": steps, "last_loss": loss.item(), "cpu_seconds": time.process_time() - began}


def _step(learner: Learner, pictures: Pictures, step: int, seed: int, optimizer: torch.optim.Optimizer) -> Tensor:
    optimizer.zero_grad()
    loss: Tensor = learner(pictures, step, seed)
    torch.autograd.backward(loss)
    optimizer.step()
    return loss.detach()


def probe(encoder: Vit, fitted: Pictures, scored: Pictures) -> dict[str, float]:
    """Linear probe of the last block's mean patch token, which an objective has trained."""
    there_BF, here_BF = standardised(block_features(encoder, fitted)[-1], block_features(encoder, scored)[-1])
    return linear_probe(there_BF, fitted.labels_B, here_BF, scored.labels_B)


def speeds(teacher: Vit, pictures: Pictures, rounds: int = 7) -> dict[str, Any]:
    """Pictures per processor second: of both encoders forward, and of each arm's training steps; all in turn, medians of rounds."""
    learners = {arm: Learner(arm, teacher, 0) for arm in ARMS[1:]}
    rules = {arm: torch.optim.AdamW(learner.parameters(), lr=1e-4) for arm, learner in learners.items()}
    student, batch = learners["pixels"].towers.image, pictures.images_BCHW[:250]
    work: dict[str, Callable[[], object]] = {
        "teacher": partial(_forward, teacher, batch),
        "student": partial(_forward, student, batch),
    }
    work |= {arm: partial(_step, learner, pictures, 0, 0, rules[arm]) for arm, learner in learners.items()}
    taken: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, run in work.items():
            began = time.process_time()
            run()
            if number:  # the first round warms up
                taken[name].append(time.process_time() - began)
    count = {"teacher": len(batch), "student": len(batch)}
    rates = {name: count.get(name, STUDENT.batch) / statistics.median(seconds) for name, seconds in taken.items()}
    sizes = {name: sum(weight.numel() for weight in encoder.parameters()) for name, encoder in (("teacher", teacher), ("student", student))}
    return {"images_per_cpu_second": rates, "weights": sizes}


@torch.inference_mode()
def _forward(encoder: Any, images_BCHW: Tensor) -> Tensor:
    patches_BND: Tensor = encoder.full(encoder.normalise(images_BCHW)).patches_BND
    return patches_BND


class Bench:
    """The units over one folder of results."""

    def __init__(self, out: Path, data: Path, teacher: Path, steps: int) -> None:
        self.out, self.steps = out, steps
        self.train, self.val = load(data, "train"), load(data, "val")
        self.teacher = Recipe().encoder()
        self.teacher.load_state_dict(torch.load(teacher, weights_only=True))
        self.teacher.eval()

    def unit(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A unit's result, made where nobody has."""
        file = self.out / f"{name}.json"
        if not file.exists():
            part = file.with_suffix(".part")
            part.write_text(json.dumps(make()) + "\n")
            part.replace(file)
            print(f"{name}: {file.read_text().strip()}", flush=True)
        found: dict[str, Any] = json.loads(file.read_text())
        return found

    def arm(self, arm: str, seed: int) -> dict[str, float]:
        """One trained student and its probe; as many steps as take the processor seconds of ``--steps`` of distillation."""
        rates = self.unit("speed", lambda: speeds(self.teacher, self.train))["images_per_cpu_second"]
        learner = Learner(arm, self.teacher, seed)
        found = {} if arm == "random" else train(learner, self.train, round(self.steps * rates[arm] / rates["distil"]), seed)
        return found | probe(learner.towers.image, self.train, self.val)  # type: ignore[arg-type]

    def run(self, arms: list[str], seeds: list[int]) -> None:
        """All units, the arms of a seed beside each other."""
        for seed in seeds:
            for arm in arms:
                self.unit(f"{arm}-{self.steps}steps-seed{seed}", partial(self.arm, arm, seed))
        self.unit("teacher", lambda: probe(self.teacher, self.train, self.val))


def table(out: Path, steps: int) -> str:
    """The results of runs of so many steps of distillation as Markdown: mean, least and most over seeds."""
    speed = json.loads((out / "speed.json").read_text())
    rates, sizes = speed["images_per_cpu_second"], speed["weights"]
    lines = ["| | probe top-1, % (min to max) | seeds | steps | training, CPU s |", "|---|---|---|---|---|"]
    for arm in ARMS:
        runs = [json.loads(file.read_text()) for file in sorted(out.glob(f"{arm}-{steps}steps-*.json"))]
        if runs:
            top1, done = [run["probe"] for run in runs], runs[0].get("steps", 0)
            cost = statistics.mean(run.get("cpu_seconds", 0.0) for run in runs)
            lines.append(
                f"| {arm} | {statistics.mean(top1):.2f} ({min(top1):.2f} to {max(top1):.2f}) | {len(runs)} | {done:,} | {cost:.0f} |"
            )
    if (out / "teacher.json").exists():
        lines.append(f"| teacher | {json.loads((out / 'teacher.json').read_text())['probe']:.2f} | | | |")
    smaller, faster = sizes["teacher"] / sizes["student"], rates["student"] / rates["teacher"]
    lines += ["", f"weights: teacher {sizes['teacher']:,}, student {sizes['student']:,} ({smaller:.1f} times fewer)"]
    lines.append(f"forward, pictures per CPU second: {rates['teacher']:.0f} and {rates['student']:.0f} ({faster:.1f} times as many)")
    return "\n".join(lines)


def main() -> int:
    """Run what is missing, then print the table; 0 also when the pictures are absent, which is said."""
    parser = argparse.ArgumentParser(prog="python -m tools.distil_worth", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--teacher", type=Path, default=Path("runs/cifar_worth/ours-seed0-3960steps-d2x64.pt"), help="of tools.cifar_worth")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, default=Path("runs/distil_worth"))
    parser.add_argument("--steps", type=int, default=300, help="of distillation; the other arms get as many processor seconds")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["random", "distil", "pixels"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    for missing in (place for place in (options.data, options.teacher) if not place.exists()):
        print(f"skipped: no {missing}; give CIFAR-10 with --data, and with --teacher weights that tools.cifar_worth wrote")
        return 0
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    Bench(options.out, options.data, options.teacher, options.steps).run(options.arms, options.seeds)
    print(table(options.out, options.steps))
    return 0


if __name__ == "__main__":
    sys.exit(main())
