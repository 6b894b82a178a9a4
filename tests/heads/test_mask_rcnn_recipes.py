"""The published recipes of the two-stage detector build at their sizes, train, and answer through the command line."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import timm
import torch
import yaml
from tiny_runs import MACHINE, REPOSITORY, content, curve, differing_weights, in_process

from mae_vlm.cli.automatic import choose
from mae_vlm.cli.machine import Machine
from mae_vlm.data.summary import Summary

CLASSES = [f"class {number}" for number in range(80)]
KNOWN = frozenset({"boxes", "masks"})
COCO = Summary(None, "coco", 118_287, 5_000, 0, 480, 640, 3, None, "", object_classes=CLASSES, known=KNOWN)
RECIPES = REPOSITORY / "configs" / "finetune"


def built(config: dict):
    """The learner of a config without a byte of its weights."""
    from lightning import LightningModule

    from mae_vlm.cli.parser import Parser

    parser = Parser()
    parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True)
    with torch.device("meta"):
        return parser.instantiate_classes(parser.parse_object({"model": config["model"]})).model


@pytest.mark.parametrize("size, blocks", [("small", [2, 5, 8, 11]), ("base", [2, 5, 8, 11]), ("large", [5, 11, 17, 23])])
def test_the_recipe_has_its_vit_at_1024_pixels_and_the_published_head(size, blocks, capsys):
    assert in_process("fit", "--config", RECIPES / f"coco_{size}.yaml", "--print_config") == 0
    config = yaml.safe_load(capsys.readouterr().out)
    choose(config, COCO, Machine("cuda", 8, 96, True, 1e14))
    model = built(config)
    with torch.device("meta"):
        theirs = timm.create_model(f"vit_{size}_patch16_224", num_classes=0, img_size=1024)
    assert sum(weight.numel() for weight in model.towers.parameters()) == sum(weight.numel() for weight in theirs.parameters())
    head, width = model.heads["detect"], theirs.embed_dim
    assert head.strides == [4, 8, 16, 32, 64] and head.whole == tuple(blocks) and head.windows == 4 and head.classes == 80
    parts = {name: sum(weight.numel() for weight in part.parameters()) for name, part in head.named_children()}
    conv = 256 * 256 * 9
    heads = {
        "first": 2 * (conv + 256) + (256 + 1) * 3 * 5,
        "second": 4 * (conv + 512) + (256 * 49 + 1) * 1024 + 1025 * 81 * 5  # class and box
        + 4 * (conv + 512) + (256 * 256 * 4 + 256) + 257 * 81,  # mask
    }  # fmt: skip
    up = {4: width * width * 2 + width // 2 + 2 * (width // 2) + width * width // 2 + width // 4, 2: width * width * 2 + width // 2}
    after = {4: width // 4, 2: width // 2, 1: width, 0.5: width}
    pyramid = sum(2 * width + up.get(scale, 0) + 256 * inner + conv + 4 * 256 for scale, inner in after.items())
    assert parts == heads | {"pyramid": pyramid}


@pytest.mark.parametrize("size", ["small", "base", "large"])
def test_the_header_states_true_steps(size):
    text = (RECIPES / f"coco_{size}.yaml").read_text()
    config = yaml.safe_load(text)
    steps, options = config["trainer"]["max_steps"], config["model"]["init_args"]["optimizer"]["init_args"]
    assert f"{steps:,} optimizer steps at {config['data']['batch_size']} pictures (100 epochs)" in text
    assert f"{round(options['warmup'] * steps)} of them warm-up" in text and options["base_lr"] * 64 / 256 == pytest.approx(1e-4)
    assert re.search(r"published figure, not run by us|no published figure for this size known to us", text)


SMALL = ["--config", RECIPES / "coco_small.yaml", *MACHINE, "--data.path", "null", "--data.image_size", "32", "--data.scenes", "8"]
SMALL += ["--data.val_scenes", "4", "--data.batch_size", "4", "--trainer.log_every_n_steps", "1", "--trainer.val_check_interval", "2"]
SMALL += ["--model.encoder.name", "null", "--model.encoder.width", "32", "--model.encoder.depth", "2", "--model.encoder.heads", "2"]
SMALL += ["--model.encoder.patch", "4", "--model.heads.detect.whole", "[1]", "--model.heads.detect.width", "16", "--probes.pictures", "0"]
SMALL += ["--model.heads.detect.hidden", "32", "--model.heads.detect.proposals", "40", "--pictures.encoder", "false", "--name", "tiny"]
SMALL += ["--trainer.max_steps", "4", "--checkpoint.every_n_steps", "2", "--checkpoint.keep_last", "2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("trained")
    assert in_process("fit", *SMALL, "--trainer.default_root_dir", root) == 0
    return root / "tiny" / "version_0"


def test_the_recipe_trains_and_measures_boxes_and_masks(trained):
    tags = {f"train/detect/{name}" for name in ("objectness", "proposals", "classes", "boxes", "masks")}
    assert all(len(curve(trained, tag)) == 4 for tag in tags)
    assert all(curve(trained, tag) for tag in ("val/loss", "val/box_map", "val/box_map50", "val/mask_map", "val/mask_map50"))
    assert {"boxes.csv", "masks.csv"} <= {file.name for file in (trained / "tables").iterdir()}
    assert list((trained / "pictures").glob("detections_*.png"))


def test_a_run_that_was_cut_off_ends_bit_equal_whatever_was_drawn_meanwhile(trained, tmp_path):
    run = tmp_path / "tiny" / "version_0"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(trained / "checkpoints" / "step_00000002.ckpt", run / "checkpoints")
    torch.rand(7)
    assert in_process("fit", *SMALL, "--ckpt_path", "last", "--trainer.default_root_dir", tmp_path) == 0
    assert differing_weights(trained, run) == [] and content(run)["global_step"] == 4


def test_predict_writes_boxes_and_masks_in_pixels_of_the_original(trained, tmp_path):
    from faster_coco_eval.core import mask as run_length
    from torchvision.io import write_png

    from mae_vlm.data.sources.scenes import Scenes

    for number in range(2):
        write_png(Scenes(4, (40, 56), seed=5)[number].image, str(tmp_path / f"scene{number}.png"))
    words = ["predict", *MACHINE, "--ckpt_path", trained, "--data.path", tmp_path, "--out", tmp_path / "out", "--draw", "true"]
    assert in_process(*words) == 0
    found = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert found and {one["image_id"] for one in found} == {1, 2}
    for one in found:
        assert one["segmentation"]["size"] == [40, 56] and one["bbox"][0] + one["bbox"][2] <= 56.001
        left, top, width, height = run_length.toBbox([one["segmentation"]])[0].tolist()
        inside = (left >= one["bbox"][0] - 1) and (left + width <= one["bbox"][0] + one["bbox"][2] + 1)
        assert width == height == 0 or (inside and top >= one["bbox"][1] - 1)
    assert len(list((tmp_path / "out" / "drawn").glob("*.png"))) == 2
