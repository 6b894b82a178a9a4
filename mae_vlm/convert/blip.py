"""transformers' BLIP folders: the picture's tower, and the text's where it reads words alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mae_vlm.convert import naming, tensors, words
from mae_vlm.convert.clip import MEAN, STD
from mae_vlm.convert.found import Found, Text, encoder_of, split
from mae_vlm.convert.transformers import seen_by, sizes_of, timm_options

_LAYER = r"vision_model\.encoder\.layers\.(\d+)\."
_RULES = (
    (_LAYER + r"self_attn\.qkv\.", r"blocks.\1.attn.qkv."),
    (_LAYER + r"self_attn\.projection\.", r"blocks.\1.attn.proj."),
    (_LAYER + r"layer_norm([12])\.", r"blocks.\1.norm\2."),
    (_LAYER + r"mlp\.", r"blocks.\1.mlp."),
    (r"vision_model\.embeddings\.class_embedding", "cls_token"),
    (r"vision_model\.embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"vision_model\.embeddings\.position_embedding", "pos_embed"),
    (r"vision_model\.post_layernorm\.", "norm."),
)


_TEXTS = ("text_encoder.", "text_model.")  # of its models for retrieval and questions, and of the first of them
_NOT_OURS, _TYPES = ("crossattention", "pooler.", "position_ids"), "embeddings.token_type_embeddings.weight"


def read(folder: Path, config: dict[str, Any]) -> Found:
    """What such a folder holds; its text layers look at pictures too, which are listed: ours look after they have read. So is a decoder.

    Raises:
        ValueError: a damaged file, or options that our encoder does not have.
    """
    weights, unused, notes = tensors.of_folder(folder), list[str](), list[str]()
    text = _text(folder, config.get("text_config") or {}, weights, notes)
    vision = config.get("vision_config") or config
    placed = split(naming.renamed(weights, _RULES), unused)
    sizes = sizes_of(vision) | seen_by(folder, MEAN, STD) | {"positions": "learned"}
    encoder = encoder_of(sizes, float(vision.get("layer_norm_eps", 1e-5)), **timm_options(vision, folder))
    kind = "transformers " + "/".join(config.get("architectures") or ["BLIP"])
    return Found(kind, str(folder), encoder, placed, text=text, unused=tuple(unused), notes=tuple(notes))


def _text(folder: Path, config: dict[str, Any], weights: dict[str, Tensor], notes: list[str]) -> Text | None:
    """Its text encoder as a BERT, taken out of the ``weights``: one whose tokens are all of the same type, which adds nothing."""
    from transformers import BlipTextConfig

    prefix = next((one for one in _TEXTS if any(name.startswith(one) for name in weights)), None)
    if prefix is None:
        return None
    layers = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    own = {name: value for name, value in layers.items() if not any(part in name for part in _NOT_OURS)}
    stated = words.bert(BlipTextConfig(**config).to_dict(), type_vocab_size=1)
    found = words.text_of(folder, stated, own | {_TYPES: torch.zeros(1, stated["hidden_size"])}, notes)
    if found is not None:
        for name in own:
            del weights[prefix + name]
    return found
