"""transformers' ViLT folders: its one transformer as an encoder of pictures, and what puts words into its stream."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mae_vlm.convert import naming, tensors, words
from mae_vlm.convert.found import Found, Text, encoder_of, split
from mae_vlm.convert.transformers import ENCODER_RULES, seen_by, sizes_of, timm_options

_EARLY = "mae_vlm.encoders.fusion.early.Early"
_TEXT, _PICTURE = 0, 1  # the rows of the table of modalities
_MODALITIES, _WORDS = "embeddings.token_type_embeddings.weight", "embeddings.text_embeddings."


def read(folder: Path, config: dict[str, Any]) -> Found:
    """What such a folder holds: an encoder of pictures without words, and for both the embeddings of words and an early fusion.

    What it adds to mark tokens as a picture's goes into the position table, and the fusion adds no more to them.

    Raises:
        ValueError: a damaged file, or options that our encoder does not have.
    """
    weights, notes = {name.removeprefix("vilt."): value for name, value in tensors.of_folder(folder).items()}, list[str]()
    mark_MD = weights.pop(_MODALITIES, None)
    if mark_MD is None or "embeddings.position_embeddings" not in weights:
        raise ValueError(f"{folder}: no whole ViLT, {_MODALITIES} or its positions are missing; a partial file?")
    text = _text(folder, config, weights, mark_MD, notes)
    shaped = naming.fused(naming.renamed(weights, ENCODER_RULES), folder)
    shaped["pos_embed"] = shaped["pos_embed"] + mark_MD[_PICTURE]
    unused: list[str] = []
    placed = split(shaped, unused)
    sizes = sizes_of(config) | seen_by(folder, (0.5,) * 3, (0.5,) * 3) | {"positions": "learned"}
    encoder = encoder_of(sizes, float(config.get("layer_norm_eps", 1e-12)), **timm_options(config, folder))
    notes.append("its mark of a picture's tokens is added to the position table")
    if len(mark_MD) > 2:
        notes.append(f"{_MODALITIES}: its marks of further pictures are left behind")
    kind = "transformers " + "/".join(config.get("architectures") or ["ViLT"])
    return Found(kind, str(folder), encoder, placed, text=text, unused=tuple(unused), notes=tuple(notes))


def _text(folder: Path, config: dict[str, Any], weights: dict[str, Tensor], mark_MD: Tensor, notes: list[str]) -> Text | None:
    """Its embeddings of words, taken out of the ``weights``: a BERT without layers, whose words an early fusion marks."""
    layers = {name.removeprefix(_WORDS): value for name, value in weights.items() if name.startswith(_WORDS) and "position_ids" not in name}
    stated = words.bert({"max_position_embeddings": 40} | config, num_hidden_layers=0)
    found = words.text_of(folder, stated, {f"embeddings.{name}": value for name, value in layers.items()}, notes)
    if found is None:
        return None
    for name in layers:
        del weights[_WORDS + name]
    marks_2D = torch.stack([mark_MD[_TEXT], torch.zeros_like(mark_MD[_PICTURE])])
    return replace(found, weights=found.weights | {"fusion.marks.weight": marks_2D}, fusion={"class_path": _EARLY, "init_args": {}})
