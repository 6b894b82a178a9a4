"""timm's folder layout: config.json and model.safetensors, for ``timm.create_model("local-dir:DIR", pretrained=True)``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from mae_vlm.convert import tensors
from mae_vlm.convert.found import TIMM_VIT, Classifier, Found, split
from mae_vlm.convert.timm_vit import own_arguments
from mae_vlm.encoders.vit import Vit


def read(folder: Path) -> Found:
    """What such a folder holds: a plain ViT of timm's VisionTransformer or Eva (RoPE, DINOv3) family.

    Raises:
        ValueError: another architecture, or a damaged file.
    """
    config = tensors.json_of(folder / "config.json")
    told = config | (config.get("pretrained_cfg") or {})
    weights, unused = tensors.of_folder(folder), list[str]()
    classifier = _classifier(weights, config)
    kept = {name: value for name, value in weights.items() if classifier is None or not name.startswith(("fc_norm.", "head."))}
    arguments = dict(config.get("model_args") or {})
    channels, *size = told.get("input_size") or (3, 224, 224)
    options: dict[str, Any] = {
        "name": str(config["architecture"]), "arguments": own_arguments(arguments), "image_size": arguments.get("img_size", size),
        "channels": arguments.get("in_chans", channels),
    }  # fmt: skip
    options |= {name: [float(one) for one in told[name]] for name in ("mean", "std") if told.get(name) is not None}
    may_lack = ("vit.norm.weight", "vit.norm.bias") if "fc_norm.weight" in weights else ()
    placed = split(kept, unused)
    encoder = {"class_path": TIMM_VIT, "init_args": options}
    return Found("timm", str(folder), encoder, placed, classifier=classifier, unused=tuple(unused), may_lack=may_lack)


def _classifier(weights: dict[str, Tensor], config: dict[str, Any]) -> Classifier | None:
    """Timm's linear layer on the normed mean of the patch tokens; one on a class token is none that we have."""
    if not {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"} <= weights.keys():
        return None
    names = {"fc_norm": "norm", "head": "linear"}
    own = {f"{names[part]}.{kind}": weights[f"{part}.{kind}"] for part in names for kind in ("weight", "bias")}
    count, labels = len(weights["head.bias"]), config.get("label_names")
    return Classifier([str(label) for label in labels] if isinstance(labels, list) and len(labels) == count else count, own)


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


def write_classifier(classifier: Classifier, encoder: Vit, folder: Path) -> list[Path]:
    """Write the encoder with its classifier as one timm model: ``model(x)`` are the logits.

    timm's ``fc_norm`` on the mean of the patch tokens is what the head does, and its own last norm is then left out, as the head does.

    Raises:
        ValueError: the folder holds such files already.
    """
    files, own = write(encoder, folder), classifier.weights
    kept = {name: value for name, value in load_file(str(files[1])).items() if not name.startswith("norm.")}
    kept |= {
        f"{there}.{kind}": own[f"{here}.{kind}"].detach().cpu().contiguous()
        for here, there in (("norm", "fc_norm"), ("linear", "head"))
        for kind in ("weight", "bias")
    }
    save_file(kept, str(files[1]), metadata={"format": "pt"})
    stated = json.loads(files[0].read_text())
    stated["num_classes"] = stated["pretrained_cfg"]["num_classes"] = len(own["linear.bias"])
    stated["model_args"] |= {"use_fc_norm" if "use_fc_norm" in stated["model_args"] else "fc_norm": True}
    if isinstance(classifier.classes, list):
        stated["label_names"] = classifier.classes
    files[0].write_text(json.dumps(stated, indent=2) + "\n")
    return files
