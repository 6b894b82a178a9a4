"""timm's folder layout: config.json and model.safetensors, for ``timm.create_model("local-dir:DIR", pretrained=True)``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from mae_vlm.encoders.vit import Vit


def write(encoder: Vit, folder: str | Path) -> list[Path]:
    """Write ``encoder`` so that timm opens it with the same features; ``model(x)`` is then the mean of the normed patch tokens.

    timm expects pictures scaled to [0, 1] and normalised by the mean and std in its ``pretrained_cfg``. Returns the files written.

    Raises:
        ValueError: the folder holds such files already.
    """
    target = Path(folder)
    files = [target / "config.json", target / "model.safetensors"]
    there = [str(file) for file in files if file.exists()]
    if there:
        raise ValueError(f"{', '.join(there)} exists already; choose another --out, or remove it first")
    target.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().contiguous() for name, value in encoder.vit.state_dict().items()}
    save_file(weights, str(files[1]), metadata={"format": "pt"})
    files[0].write_text(json.dumps(_config(encoder), indent=2) + "\n")
    return files


def _config(encoder: Vit) -> dict[str, Any]:
    space = encoder.space
    return {
        "architecture": encoder.architecture,
        "num_classes": 0,
        "num_features": encoder.width,
        "global_pool": "avg",
        "model_args": {name: value for name, value in encoder.model_args.items() if name != "num_classes"},
        "pretrained_cfg": {
            "num_classes": 0,
            "input_size": [space.channels, space.height, space.width],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "mean": [round(float(value), 6) for value in encoder.mean.flatten()],
            "std": [round(float(value), 6) for value in encoder.std.flatten()],
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "license": "other",
        },
    }
