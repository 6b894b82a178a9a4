"""Ten faults, each put into a real run and found by its name at its end; healthy runs of ten kinds and more, in which nothing is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image
from tiny_runs import DECODER, ENCODER, MACHINE, in_new_process, in_process

from mae_vlm.data.sources.scenes import Scenes
from mae_vlm.report.findings.verdict import Verdict, judge
from mae_vlm.report.recorded import read

pytestmark = pytest.mark.faults

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SIZES = ["--data.image_size", "32", "--data.batch_size", "32", "--pictures.count", "2"]
SCENES = ["--data.scenes", "384", "--data.val_scenes", "48"]
RATE = ["--model.optimizer.base_lr", "1.5e-2"]  # 1.9e-3 at 32 pictures: a rate at which a model of this size learns within seconds
RUN = [*MACHINE, *ENCODER, *DECODER, *SIZES, *RATE]


class Forget(Callback):
    """Makes the encoder forget its input: from ``step`` on its patch embedding fades."""

    def __init__(self, step: int = 40) -> None:
        self.step = step

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *arguments: Any) -> None:
        if trainer.global_step > self.step:
            for name, weight in pl_module.towers.image.named_parameters():
                if "patch_embed" in name:
                    weight.mul_(0.8)


def callback(name: str, **options: Any) -> list[str]:
    return ["--trainer.callbacks", json.dumps([{"class_path": name, "init_args": options}])]


def smooth(draw: np.random.Generator, height: int, width: int) -> Image.Image:
    """A few colours that run into each other."""
    few = draw.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(few).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """kind -> a folder of such pictures."""
    root, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    originals = [smooth(draw, 32, 32) for _ in range(200)]
    kinds = {
        "photos": originals,
        "grey": [picture.convert("L") for picture in originals],
        "wide": [smooth(draw, 32, 64) for _ in range(200)],
        "constant": [Image.new("RGB", (32, 32), tuple(draw.integers(0, 256, 3).tolist())) for _ in range(200)],
        "copies": [originals[number % 8] for number in range(200)],
        "large": [smooth(draw, 1500, 1500) for _ in range(44)],  # each is read once: the second time it would come from the cache
    }
    for kind, found in kinds.items():
        (root / kind).mkdir()
        for number, picture in enumerate(found):
            picture.save(root / kind / f"{number:03}.png", compress_level=1)
    return lambda kind: root / kind


def captioned(folder: Path, shift: int) -> Path:
    """A folder of scenes with their captions, each picture's being those of the picture ``shift`` places on."""
    scenes = [Scenes(1200, (32, 32))[number] for number in range(1200)]
    folder.mkdir()
    rows = []
    for number, scene in enumerate(scenes):
        Image.fromarray(scene.image.permute(1, 2, 0).numpy()).save(folder / f"{number:04}.png", compress_level=1)
        rows.append(json.dumps({"image": f"{number:04}.png", "captions": scenes[(number + shift) % len(scenes)].captions}))
    (folder / "captions.jsonl").write_text("\n".join(rows))
    return folder


def verdict_of(tmp_path: Path, *words: str | Path) -> Verdict:
    assert in_process("fit", *RUN, *words, "--trainer.default_root_dir", tmp_path) == 0
    return verdict(tmp_path)


def verdict(root: Path) -> Verdict:
    run = root / "default" / "version_0"
    assert "</html>" in (run / "report.html").read_text()[-10:]
    return judge(read(run))


def steps(count: int) -> list[str]:
    return ["--trainer.max_steps", str(count)]


DEEP = ["--model.encoder.width", "64", "--model.encoder.depth", "6"]
POISON = ["--model.objectives.pixels", "tests.faults.killer.PoisonPixels", "--model.objectives.pixels.width", "32"]
POISON += ["--model.objectives.pixels.depth", "1"]
FAULTS = {
    "zero-learning-rate": [*SCENES, *steps(30), "--model.optimizer.base_lr", "0"],
    "learning-rate-too-high": [*SCENES, *steps(80), *DEEP, "--data.batch_size", "64", "--model.optimizer.base_lr", "0.6"],
    "collapsing-features": [*SCENES, *steps(80), *callback("tests.faults.test_seeded_faults.Forget")],
    "mask-ratio-extreme": [*SCENES, *steps(30), "--model.encoder.patch", "2", "--model.masking.ratio", "0.99"],
    "non-finite-steps": [*SCENES, *steps(40), *POISON, *callback("tests.faults.killer.Poison", steps=[15, 22])],
    "updates-rounding-away": [*SCENES, *steps(40), "--trainer.precision", "bf16-true", "--model.optimizer.base_lr", "1e-3"],
    "constant-pictures": ["constant", *steps(40)],
    "duplicates": ["copies", *steps(60)],
    "loader-bound": [
        "large",
        *steps(10),
        "--data.batch_size",
        "4",
        "--trainer.log_every_n_steps",
        "2",
        "--trainer.val_check_interval",
        "10",
    ],
}


def with_paths(words, pictures):
    kind, *rest = words
    return words if kind.startswith("--") else ["--data.path", pictures(kind), *rest]


@pytest.mark.parametrize("finding", FAULTS)
def test_a_fault_is_found_by_its_name(tmp_path, capsys, pictures, finding):
    found = verdict_of(tmp_path, *with_paths(FAULTS[finding], pictures))
    assert found.names == [finding]
    told = capsys.readouterr().out
    assert f"verdict:      {finding}" in told and str(Path("default", "version_0", "report.html")) in told


WORDS = {
    "encoder": {"class_path": "mae_vlm.encoders.vit.Vit", "init_args": {"width": 32, "depth": 2, "heads": 2, "patch": 8}},
    "text": {
        "class_path": "mae_vlm.encoders.text.transformer.Transformer",
        "init_args": {"width": 32, "depth": 1, "heads": 2, "length": 32},
    },
    "masking": {"class_path": "mae_vlm.tokens.masking.RandomMask", "init_args": {"ratio": 0.75}},
    "objectives": {
        "pixels": {"class_path": "mae_vlm.objectives.pixels.Pixels", "init_args": {"width": 32, "depth": 1}},
        "image_text": {"class_path": "mae_vlm.objectives.image_text.SoftmaxContrast", "init_args": {"width": 32}},
    },
    "optimizer": {"class_path": "mae_vlm.learners.optim.AdamW", "init_args": {"base_lr": 2.4e-2}},  # 3e-3 at 32 pictures
}


@pytest.mark.parametrize("shift, names", [(0, []), (400, ["shuffled-captions"])])
def test_captions_of_other_pictures_are_found_and_those_of_their_own_are_not_blamed(tmp_path, capsys, shift, names):
    config = tmp_path / "default.yaml"
    config.write_text(json.dumps({"model": {"class_path": "mae_vlm.learners.pretrain.Pretrainer", "init_args": WORDS}}))
    path = ["--data.path", captioned(tmp_path / "pairs", shift), "--trainer.default_root_dir", tmp_path]
    assert in_process("fit", "--config", config, *MACHINE, *SIZES, *steps(320), *path) == 0
    assert verdict(tmp_path).names == names
    assert f"verdict:      {names[0] if names else 'nothing found'}" in capsys.readouterr().out


BUSY = ["--model.encoder.patch", "4", "--data.num_workers", "1"]  # enough to do for the model that the loader keeps up
LARGE = ["--model.objectives.pixels.width", "96", "--model.objectives.pixels.depth", "4"]
BLOCKS = ["--model.masking", "mae_vlm.tokens.masking.BlockMask", "--model.masking.smallest", "2"]
HEALTHY = {
    "scenes": [*SCENES, *steps(100)],
    "short": [*SCENES, *steps(20)],
    "few to validate on": ["--data.scenes", "384", "--data.val_scenes", "2", *steps(60)],
    "plain pixels": [*SCENES, *steps(80), "--model.objectives.pixels.normalise", "false"],
    "blocks": [*SCENES, *steps(80), *BLOCKS],
    "a large decoder": [*SCENES, *steps(60), *LARGE],
    "a folder of pictures": ["photos", *steps(80)],
    "grey": ["grey", *steps(80)],
    "wide": ["wide", "--data.image_size", "[32,64]", *steps(60)],
    "cifar10": ["--data.path", SHARED / "cifar10", *steps(80)],
    "photographs": ["--data.path", SHARED / "flickr8k-sub", *steps(60)],
    "blood cells": ["--data.path", SHARED / "bccd", *steps(60)],
}


@pytest.mark.parametrize("kind", HEALTHY)
def test_nothing_is_found_in_a_healthy_run(tmp_path, pictures, kind):
    words = with_paths(HEALTHY[kind], pictures)
    if any(SHARED in Path(word).parents and not Path(word).exists() for word in words):
        pytest.skip(f"no {words[1]}")
    assert verdict_of(tmp_path, *BUSY, *words).names == []


def test_nothing_is_found_in_a_run_that_was_resumed(tmp_path):
    root = ["--trainer.default_root_dir", tmp_path]
    assert in_process("fit", *RUN, *BUSY, *SCENES, *steps(40), *root) == 0
    assert in_process("fit", "--ckpt_path", "last", *MACHINE, *steps(80), *root) == 0
    assert [path.name for path in (tmp_path / "default").iterdir()] == ["version_0"]
    assert verdict(tmp_path).names == []


def test_nothing_is_found_in_a_run_of_two_processes(tmp_path):
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    done = in_new_process("fit", *RUN, *BUSY, *SCENES, *two, *steps(40), "--trainer.default_root_dir", tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert verdict(tmp_path).names == [] and "verdict:      nothing found" in done.stdout
