"""The published recipes of the segmenter build at their sizes, and train."""

from __future__ import annotations

import pytest
import timm
import torch
import yaml
from tiny_runs import MACHINE, REPOSITORY, curve, in_process

from mae_vlm.cli.automatic import choose
from mae_vlm.cli.machine import Machine
from mae_vlm.data.summary import Summary

CLASSES = [f"class {number}" for number in range(151)]
ADE20K = Summary(None, "masks", 20_210, 2_000, 0, 512, 683, 3, None, "", object_classes=CLASSES, known=frozenset({"semantic"}))


@pytest.mark.parametrize("size, head", [("small", 11_609_486), ("base", 44_445_934), ("large", 47_463_726)])
def test_the_recipe_has_its_vit_at_512_pixels_and_a_head_of_this_size(size, head, capsys):
    assert in_process("fit", "--config", REPOSITORY / "configs" / "finetune" / f"ade20k_{size}.yaml", "--print_config") == 0
    config = yaml.safe_load(capsys.readouterr().out)
    choose(config, ADE20K, Machine("cuda", 8, 96, True, 1e14))
    from lightning import LightningModule

    from mae_vlm.cli.parser import Parser

    parser = Parser()
    parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True)
    with torch.device("meta"):
        model = parser.instantiate_classes(parser.parse_object({"model": config["model"]})).model
    with torch.device("meta"):
        theirs = timm.create_model(f"vit_{size}_patch16_224", num_classes=0, img_size=512)
    assert model.towers.image.width == theirs.embed_dim
    assert sum(weight.numel() for weight in model.towers.parameters()) == sum(weight.numel() for weight in theirs.parameters())
    assert sum(weight.numel() for weight in model.heads.parameters()) == head
    assert model.heads["segment"].ignored == [0] and model.towers.image.space.rows == 32


def test_the_small_recipe_trains(tmp_path):
    """On scenes of two windows, the background ignored as the class 0 of ADE20K is."""
    words = ["--config", REPOSITORY / "configs" / "finetune" / "ade20k_small.yaml", *MACHINE, "--data.path", "null"]
    words += [
        "--data.image_size",
        "32",
        "--data.val_size",
        "[32,48]",
        "--data.scenes",
        "8",
        "--data.val_scenes",
        "2",
        "--data.batch_size",
        "4",
    ]
    words += [
        "--data.batch_size",
        "4",
        "--trainer.max_steps",
        "2",
        "--trainer.val_check_interval",
        "2",
        "--trainer.log_every_n_steps",
        "1",
        "--probes.pictures",
        "0",
    ]
    assert in_process("fit", *words, "--pictures.encoder", "false", "--trainer.default_root_dir", tmp_path) == 0
    run = tmp_path / "ade20k_small" / "version_0"
    assert len(curve(run, "train/segment/auxiliary")) == 2 and curve(run, "val/miou")
