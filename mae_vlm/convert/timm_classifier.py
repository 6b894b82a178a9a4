"""A fine-tuned classifier in timm's layout: encoder, norm and linear layer as one timm model with the same logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from mae_vlm.convert import native, timm
from mae_vlm.encoders.vit import Vit

_HEAD = "mae_vlm.heads.classify.Classify"


def write(checkpoint: Path, encoder: Vit, folder: Path, weights: str = "raw") -> list[Path]:
    """Write ``encoder`` with the classifier of its ``checkpoint``: ``model(x)`` are the logits of that head.

    timm's ``fc_norm`` on the mean of the patch tokens is what the head does, and its own last norm is then left out, as the head does.

    Raises:
        ValueError: there is no head of that kind, or several; or the folder holds such files already.
    """
    config, state = native.read(checkpoint, weights)
    name, options = _only_head(config, checkpoint)
    head = {key.removeprefix(f"heads.{name}."): value for key, value in state.items() if key.startswith(f"heads.{name}.")}
    files = timm.write(encoder, folder)
    kept = {key: value for key, value in load_file(str(files[1])).items() if not key.startswith("norm.")}
    save_file(kept | _renamed(head), str(files[1]), metadata={"format": "pt"})
    stated = json.loads(files[0].read_text())
    classes = len(head["linear.bias"])
    stated["num_classes"] = stated["pretrained_cfg"]["num_classes"] = classes
    stated["model_args"] = _with_norm_of_the_mean(stated["model_args"])
    if isinstance(options.get("classes"), list):
        stated["label_names"] = [str(word) for word in options["classes"]]
    files[0].write_text(json.dumps(stated, indent=2) + "\n")
    return files


def _only_head(config: dict[str, Any], checkpoint: Path) -> tuple[str, dict[str, Any]]:
    heads = config.get("model", {}).get("init_args", {}).get("heads") or {}
    found = {name: one for name, one in heads.items() if isinstance(one, dict) and one.get("class_path") == _HEAD and _has_classes(one)}
    if len(heads) != 1 or len(found) != 1:
        held = ", ".join(heads) or "no head"
        raise ValueError(f"{checkpoint} holds {held}; timm's classifier is one {_HEAD} of classes; leave --classifier out")
    name, one = next(iter(found.items()))
    return name, dict(one.get("init_args") or {})


def _has_classes(head: dict[str, Any]) -> bool:
    return (head.get("init_args") or {}).get("loss", "cross_entropy") in ("cross_entropy", "binary")


def _renamed(head: dict[str, Tensor]) -> dict[str, Tensor]:
    places = {"norm": "fc_norm", "linear": "head"}
    return {f"{places[key.partition('.')[0]]}.{key.partition('.')[2]}": value.detach().cpu().contiguous() for key, value in head.items()}


def _with_norm_of_the_mean(arguments: dict[str, Any]) -> dict[str, Any]:
    name = "use_fc_norm" if "use_fc_norm" in arguments else "fc_norm"
    return arguments | {name: True}
