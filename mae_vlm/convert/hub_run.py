"""An encoder, and its towers of words, that a push has put on the hub, by the name ``hf://org/name``."""

from __future__ import annotations

from typing import Any

import yaml
from safetensors.torch import load_file
from torch import Tensor

from mae_vlm.convert import pushed_words
from mae_vlm.convert.found import Text
from mae_vlm.hub.names import fetched


def stated_encoder(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the config of a pushed run says of its image tower (``class_path``, ``init_args``), and that tower's weights.

    Raises:
        ValueError: the hub does not give its files, or they are not those of an encoder that was pushed from a run.
    """
    files = fetched(name, "config.yaml", "model.safetensors")
    try:
        stated = yaml.safe_load(files["config.yaml"].read_text())["model"]["init_args"]["encoder"]
        found = {"class_path": stated["class_path"], "init_args": dict(stated.get("init_args") or {})}
        weights = load_file(str(files["model.safetensors"]))
    except Exception as problem:  # yaml, safetensors and the file system each have their own
        raise ValueError(f"{name} is not an encoder that mae_vlm has pushed, or is damaged ({type(problem).__name__})") from problem
    if "fc_norm.weight" in weights:
        raise ValueError(f'{name} is a classifier; open it with timm.create_model("hf-hub:{name.removeprefix("hf://")}", pretrained=True)')
    return found, {f"vit.{key}": value for key, value in weights.items()}


def text(name: str) -> Text | None:
    """The towers of words of a pushed run; None where it has none.

    Raises:
        ValueError: the hub does not give them, or they are damaged.
    """
    try:
        fetched(name, pushed_words.STATED)
    except ValueError as problem:
        if f"it has no {pushed_words.STATED}" not in str(problem):
            raise
        return None
    return pushed_words.read(fetched(name, *pushed_words.FILES))
