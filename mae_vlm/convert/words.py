"""Text towers out of other formats: a transformers text model by its own names, with the vocabulary that lies beside its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from mae_vlm.convert.found import Text
from mae_vlm.tokens.words import read

TRANSFORMER = "mae_vlm.encoders.text.transformer.Transformer"
_FILES = ("tokenizer.json", "vocab.txt")


def text_of(folder: Path, config: dict[str, Any], weights: dict[str, Tensor], notes: list[str]) -> Text | None:
    """The text tower that transformers builds from ``config`` (its ``model_type``, ``vocab_size`` and all sizes), and its ``weights``.

    None, with a note why, where the folder holds no vocabulary that is the tower's: there is no text tower of ours without one.
    """
    file = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if file is None:
        notes.append(f"no tokenizer.json there, nor a {_FILES[1]}: its text tower is left behind")
        return None
    try:
        size = len(read(file))
    except ValueError as problem:
        notes.append(f"its text tower is left behind: {problem}")
        return None
    if size > config["vocab_size"]:
        notes.append(f"its text tower is left behind: {file} has {size} tokens, the tower {config['vocab_size']}")
        return None
    options = {"vocabulary": str(file), "config": config, "length": int(config["max_position_embeddings"])}
    return Text({"class_path": TRANSFORMER, "init_args": options}, {f"text.model.{name}": value for name, value in weights.items()})


def bert(sizes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The config of a BERT with the ``sizes`` of another model that is made of BERT's layers."""
    names = {
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "hidden_act": "gelu",
        "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "vocab_size": 30522, "type_vocab_size": 2, "pad_token_id": 0,
    }  # fmt: skip
    return {"model_type": "bert"} | {name: sizes.get(name, default) for name, default in names.items()} | changes


def taken(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights under ``prefix``, taken out of all of them, without it."""
    return {name.removeprefix(prefix): weights.pop(name) for name in list(weights) if name.startswith(prefix)}
