"""transformers' ViLT folders: its one transformer as an encoder of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mae_vlm.convert import naming, tensors
from mae_vlm.convert.found import Found, encoder_of, split
from mae_vlm.convert.transformers import ENCODER_RULES, seen_by, sizes_of, timm_options

_PICTURE = 1  # the row of the table of modalities that stands for a picture
_MODALITIES = "embeddings.token_type_embeddings.weight"


def read(folder: Path, config: dict[str, Any]) -> Found:
    """What such a folder holds of pictures: what it makes of a picture without words.

    What it adds to mark tokens as a picture's goes into the position table. Its embeddings of words are listed.

    Raises:
        ValueError: a damaged file, or options that our encoder does not have.
    """
    weights = {name.removeprefix("vilt."): value for name, value in tensors.of_folder(folder).items()}
    mark_MD = weights.pop(_MODALITIES, None)
    shaped = naming.fused(naming.renamed(weights, ENCODER_RULES), folder)
    if mark_MD is None or "pos_embed" not in shaped:
        raise ValueError(f"{folder}: no whole ViLT, {_MODALITIES} or its positions are missing; a partial file?")
    shaped["pos_embed"] = shaped["pos_embed"] + mark_MD[_PICTURE]
    unused: list[str] = []
    placed = split(shaped, unused)
    sizes = sizes_of(config) | seen_by(folder, (0.5,) * 3, (0.5,) * 3) | {"positions": "learned"}
    encoder = encoder_of(sizes, float(config.get("layer_norm_eps", 1e-12)), **timm_options(config, folder))
    note = "its mark of a picture's tokens is added to the position table"
    return Found(
        "transformers " + "/".join(config.get("architectures") or ["ViLT"]),
        str(folder),
        encoder,
        placed,
        unused=tuple(unused),
        notes=(note,),
    )
