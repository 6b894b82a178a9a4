"""The published recipes of classifier and probe build at their sizes and with their rates, and train."""

from __future__ import annotations

import pytest
import timm
import torch
import yaml
from tiny_runs import MACHINE, REPOSITORY, content, curve, in_process

from mae_vlm.cli.automatic import choose
from mae_vlm.cli.machine import Machine
from mae_vlm.data.summary import Summary
from mae_vlm.encoders.vit import Vit
from mae_vlm.encoders.weights import fill

PICTURES = 1_281_167
IMAGENET = Summary(None, "folder", PICTURES, 50_000, 0, 400, 500, 3, [f"class {number}" for number in range(1000)], "")
# weights that learn: of timm's ViTs with a norm after pooling and 1,000 classes; of the probe 768 x 1,000 and biases
RECIPES = [("small", 22_050_664), ("base", 86_567_656), ("large", 304_326_632), ("probe_base", 769_000)]


def place(size):
    return REPOSITORY / "configs" / "finetune" / f"imagenet_{size}.yaml"


@pytest.fixture
def resolved(capsys):
    def resolve(size):
        assert in_process("fit", "--config", place(size), "--print_config") == 0, capsys.readouterr().err
        config = yaml.safe_load(capsys.readouterr().out)
        choose(config, IMAGENET, Machine("cuda", 8, 96, True, 1e14))
        return config

    return resolve


def built(config):
    from lightning import LightningModule

    from mae_vlm.cli.parser import Parser

    parser = Parser()
    parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True)
    with torch.device("meta"):
        return parser.instantiate_classes(parser.parse_object({"model": config["model"]})).model


@pytest.mark.parametrize("size, learning", RECIPES)
def test_the_recipe_has_its_weights_steps_and_rates(size, learning, resolved):
    config = resolved(size)
    model = built(config)
    assert sum(weight.numel() for weight in model.parameters() if weight.requires_grad) == learning
    with torch.device("meta"):
        theirs = timm.create_model(f"vit_{size.removeprefix('probe_')}_patch16_224", num_classes=0)
    assert sum(weight.numel() for weight in model.towers.parameters()) == sum(weight.numel() for weight in theirs.parameters())
    assert model.towers.image.vit.pos_embed.requires_grad == (size != "probe_base")
    batch, epochs = config["data"]["batch_size"], config["trainer"]["max_epochs"]
    steps = epochs * (PICTURES // batch)
    rule, text = model.optimizer, place(size).read_text()
    assert f"{steps:,} optimizer steps at {batch:,} pictures ({epochs} epochs), {round(rule.warmup * steps):,} of them" in text
    assert "published figure, not run by us" in text
    optimizer, _ = rule.build(model, batch, steps)
    rates = sorted(group["initial_lr"] for group in optimizer.param_groups)
    depth, peak = len(model.towers.image.vit.blocks), {"large": 4e-3, "probe_base": 6.4}.get(size, 2e-3)
    assert rates[-1] == pytest.approx(peak)
    assert rates[0] == pytest.approx(peak * (rule.layer_decay or 1.0) ** (depth + 1))
    assert rule.floor * peak == pytest.approx(0 if size == "probe_base" else 1e-6)


def test_pretrained_fixed_positions_are_taken_as_they_are_and_then_learned():
    sizes = {"width": 32, "depth": 1, "heads": 2, "patch": 8, "image_size": 16}
    theirs, ours = Vit(**sizes, positions="sincos"), Vit(**sizes, positions="learned")
    fill(ours, theirs.state_dict(), (2, 2))
    assert torch.equal(ours.vit.pos_embed, theirs.vit.pos_embed) and ours.vit.pos_embed.requires_grad


@pytest.mark.parametrize("size, more", [("small", []), ("probe_base", ["--model.encoder.name", "vit_small_patch16_224"])])
def test_the_recipe_takes_two_steps_at_size_s(size, more, tmp_path):
    words = ["--config", place(size), *MACHINE, "--data.path", "null", "--data.image_size", "32", "--data.scenes", "16", *more]
    words += ["--data.val_scenes", "4", "--data.batch_size", "8", "--trainer.max_epochs", "null", "--trainer.max_steps", "2"]
    words += ["--trainer.log_every_n_steps", "1", "--probes.pictures", "0", "--pictures.encoder", "false", "--name", "run"]
    words += ["--trainer.default_root_dir", tmp_path]
    assert in_process("fit", *words) == 0
    run = tmp_path / "run" / "version_0"
    assert content(run)["global_step"] == 2 and len(curve(run, "train/loss")) == 2 and curve(run, "val/top1")
