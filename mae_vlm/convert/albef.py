"""ALBEF's .pth: its picture tower, whose names are those of the MAE paper's code, its text layers, and those that look at pictures."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mae_vlm.convert import facebook, naming, tensors, words
from mae_vlm.convert.clip import MEAN, STD
from mae_vlm.convert.found import Found, Text

_PREFIX, _TEXT = "visual_encoder.", re.compile(r"text_encoder\.(?:bert\.)?(embeddings\.(?!position_ids)|encoder\.layer\.)")
_LAYERS = "encoder.layer."
_CROSS = "mae_vlm.encoders.fusion.cross.CrossAttention"


def is_one(content: dict[str, Any]) -> bool:
    """Whether a pickle of tensors is one of these."""
    weights = content.get("model", content)
    return isinstance(weights, dict) and f"{_PREFIX}patch_embed.proj.weight" in weights


def read(content: dict[str, Any], file: Path) -> Found:
    """What such a file holds; its heads and projections, momentum copies and queues are listed.

    Raises:
        ValueError: weights of another architecture, or a partial file.
    """
    weights, notes = tensors.of_dict(content.get("model", content), file), list[str]()
    tower = words.taken(weights, _PREFIX)
    if not facebook.is_one(tower):
        raise ValueError(f"{file} holds no whole picture tower of ALBEF; a partial file?")
    text = _text(weights, tower["cls_token"].shape[-1], file, notes)
    found = facebook.read({"model": tower}, file)
    encoder = found.encoder | {"init_args": found.encoder["init_args"] | {"positions": "learned", "mean": list(MEAN), "std": list(STD)}}
    unused, notes = [*found.unused, *weights], [*found.notes, *notes]
    return replace(found, kind="ALBEF", encoder=encoder, text=text, unused=tuple(unused), notes=tuple(notes))


def _text(weights: dict[str, Tensor], seen: int, file: Path, notes: list[str]) -> Text | None:
    """Its first layers as a BERT and those that look at pictures as a fusion, taken out of the ``weights``.

    ``seen`` is the width of a picture's tokens: theirs go into the cross-attention as they are, ours through a layer that can hold no
    more than just that.
    """
    there = {name: _TEXT.sub(r"\1", name) for name in weights if _TEXT.match(name)}
    own = {here: weights[name] for name, here in there.items()}
    table_VD, positions_TD = own.get("embeddings.word_embeddings.weight"), own.get("embeddings.position_embeddings.weight")
    whole, first = naming.blocks(own, _LAYERS), _first_across(own)
    if table_VD is None or positions_TD is None or first < 1:
        return None
    width = table_VD.shape[1]
    layers = {name: value for name, value in own.items() if not name.startswith(_LAYERS) or int(name.split(".")[2]) < first}
    sizes = {"hidden_size": width, "num_attention_heads": max(1, width // 64), "max_position_embeddings": len(positions_TD)}
    sizes |= {"intermediate_size": len(own[f"{_LAYERS}0.intermediate.dense.weight"]), "vocab_size": len(table_VD)}
    found = words.text_of(file.parent, words.bert(sizes, num_hidden_layers=first), layers, notes)
    if found is None:
        return None
    if fits := seen == width and sizes["intermediate_size"] == 4 * width and whole > first:
        found = replace(
            found,
            weights=found.weights | _fusion(own, first, width),
            fusion={"class_path": _CROSS, "init_args": {"depth": whole - first, "heads": sizes["num_attention_heads"]}},
        )
    else:
        notes.append("its layers that look at pictures are left behind: ours take tokens of the text's width, and an MLP of 4 times that")
    notes.append(f"{sizes['num_attention_heads']} heads of attention in its text layers: BERT's at width {width}, the file does not tell")
    for name, here in there.items():
        if here in layers or fits:
            del weights[name]
    return found


def _first_across(own: dict[str, Tensor]) -> int:
    """The first layer that looks at pictures, or how many there are."""
    across = [int(name.split(".")[2]) for name in own if name.startswith(_LAYERS) and ".crossattention." in name]
    return min(across, default=naming.blocks(own, _LAYERS))


def _fusion(own: dict[str, Tensor], first: int, width: int) -> dict[str, Tensor]:
    made = {"fusion.picture.weight": torch.eye(width), "fusion.picture.bias": torch.zeros(width)}
    for name, value in own.items():
        if name.startswith(_LAYERS) and (number := int(name.split(".")[2])) >= first:
            made["fusion.layers.layer." + name.replace(f"{_LAYERS}{number}.", f"{number - first}.", 1)] = value
    return made
