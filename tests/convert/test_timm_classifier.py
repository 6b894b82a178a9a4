"""Promises of mae_vlm.convert.timm_classifier: timm's logits are those of the head, whatever the encoder."""

from __future__ import annotations

import json

import pytest
import timm
import torch
import yaml

from mae_vlm.convert.timm_classifier import write
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.heads.classify import Classify
from mae_vlm.types import CHECKPOINT_FORMAT, CHECKPOINT_KEY, Batch

CASES = {
    "sizes": {"width": 32, "depth": 2, "heads": 4, "patch": 4, "image_size": (16, 24), "class_tokens": 8},
    "no class token": {"width": 32, "depth": 1, "heads": 4, "patch": 4, "image_size": 16, "class_tokens": 0},
    "named, registers": {"name": "vit_tiny_patch16_224", "image_size": 64, "registers": 4},
    "RoPE": {"name": "vit_small_patch16_dinov3", "image_size": (32, 64)},
    "EVA02": {"name": "eva02_tiny_patch14_224", "image_size": 56},
}


def checkpoint(folder, heads, state):
    config = {"model": {"init_args": {"heads": heads}}}
    content = {CHECKPOINT_KEY: {"format": CHECKPOINT_FORMAT, "config": yaml.safe_dump(config)}, "state_dict": state}
    torch.save(content, folder / "made.ckpt")
    return folder / "made.ckpt"


def head_of(classes, **options):
    return {"class_path": "mae_vlm.heads.classify.Classify", "init_args": {"classes": classes, **options}}


@pytest.mark.filterwarnings("ignore:.*checksums are lost")
@pytest.mark.parametrize("arguments", [pytest.param(value, id=name) for name, value in CASES.items()])
@torch.no_grad()
def test_the_logits_are_those_of_the_head(tmp_path, arguments):
    torch.manual_seed(0)
    towers = Towers(Vit(**arguments).eval())
    head = Classify(towers, classes=["cat", "dog", "owl"]).eval()
    for parameter in [*towers.parameters(), *head.parameters()]:
        parameter.add_(torch.randn_like(parameter), alpha=0.05)
    space = towers.image.space
    pixels = torch.randint(0, 256, (2, space.channels, space.height, space.width), dtype=torch.uint8)
    batch = Batch(pixels, keys_B=torch.arange(2), real_B=torch.ones(2, dtype=torch.bool), labels_B=torch.zeros(2, dtype=torch.int64))
    state = {f"heads.what.{name}": value for name, value in head.state_dict().items()}

    write(checkpoint(tmp_path, {"what": head_of(["cat", "dog", "owl"])}, state), towers.image, tmp_path / "out")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    theirs_BL = model(towers.image.normalise(pixels))
    torch.testing.assert_close(theirs_BL, head(Features(towers, batch))["logits"], rtol=0, atol=1e-5)
    assert theirs_BL.std() > 1e-3
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_classes"] == 3 and config["label_names"] == ["cat", "dog", "owl"]


@pytest.mark.filterwarnings("ignore:.*checksums are lost")
@pytest.mark.parametrize(
    "heads",
    [{}, {"a": head_of(2), "b": head_of(2)}, {"a": head_of(1, loss="l2")}, {"a": {"class_path": "mae_vlm.heads.segment.Segment"}}],
    ids=["none", "two", "a number", "another"],
)
def test_what_timm_has_no_model_for_is_refused_and_nothing_written(tmp_path, heads):
    with pytest.raises(ValueError, match=r"timm's classifier is one mae_vlm\.heads\.classify\.Classify of classes"):
        write(checkpoint(tmp_path, heads, {}), Vit(**CASES["no class token"]), tmp_path / "out")
    assert not (tmp_path / "out").exists()
