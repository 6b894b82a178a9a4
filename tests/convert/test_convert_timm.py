"""Promises of mae_vlm.convert.timm: what timm opens has our features."""

import json

import pytest
import timm
import torch

from mae_vlm.convert.timm import write
from mae_vlm.encoders.vit import Vit

CASES = {
    "sizes": {"width": 32, "depth": 2, "heads": 4, "patch": 4, "image_size": (16, 24), "class_tokens": 8, "channels": 1},
    "sizes, learned, narrow MLP": {
        "width": 32,
        "depth": 1,
        "heads": 4,
        "patch": 4,
        "image_size": 16,
        "positions": "learned",
        "mlp_ratio": 2.0,
    },
    "no class token": {"width": 32, "depth": 1, "heads": 4, "patch": 4, "image_size": 16, "class_tokens": 0},
    "named, registers": {"name": "vit_tiny_patch16_224", "image_size": 64, "registers": 4, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
    "RoPE": {"name": "vit_small_patch16_dinov3", "image_size": (32, 64)},
    "EVA02, 5 channels": {"name": "eva02_tiny_patch14_224", "image_size": 56, "channels": 5},
}


@pytest.mark.parametrize("arguments", [pytest.param(value, id=name) for name, value in CASES.items()])
@torch.no_grad()
def test_timm_opens_the_folder_with_the_same_features(tmp_path, arguments):
    torch.manual_seed(0)
    encoder = Vit(**arguments).eval()
    for parameter in encoder.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.05)
    files = write(encoder, tmp_path / "out")
    assert [file.name for file in files] == ["config.json", "model.safetensors"]

    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    space = encoder.space
    images_BCHW = torch.randn(2, space.channels, space.height, space.width)
    ours = encoder.full(images_BCHW)
    assert torch.equal(model.forward_features(images_BCHW), ours.tokens_BTD)
    torch.testing.assert_close(model(images_BCHW), ours.patches_BND.mean(dim=1), rtol=0, atol=1e-6)
    assert {m.eps for m in model.modules() if isinstance(m, torch.nn.LayerNorm)} == {
        m.eps for m in encoder.modules() if isinstance(m, torch.nn.LayerNorm)
    }
    data = timm.data.resolve_model_data_config(model)
    assert data["input_size"] == (space.channels, space.height, space.width)
    assert data["mean"] == pytest.approx(encoder.mean.flatten().tolist(), abs=1e-6)
    assert data["std"] == pytest.approx(encoder.std.flatten().tolist(), abs=1e-6)


def test_the_config_holds_plain_json_that_names_the_architecture(tmp_path):
    config = json.loads(write(Vit(**CASES["sizes"]), tmp_path)[0].read_text())
    assert timm.is_model(config["architecture"])
    assert config["num_classes"] == 0
    assert config["num_features"] == 32


@pytest.mark.parametrize("there", ["config.json", "model.safetensors"])
def test_files_that_are_there_are_not_overwritten(tmp_path, there):
    (tmp_path / there).write_text("mine")
    with pytest.raises(ValueError, match=rf"{there} exists already; choose another --out"):
        write(Vit(**CASES["sizes"]), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {there}
    assert (tmp_path / there).read_text() == "mine"
