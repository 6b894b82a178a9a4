"""transformers' CLIP and SigLIP folders: the picture's tower and the text's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from mae_vlm.convert import naming, tensors, words
from mae_vlm.convert.found import Found, Text, encoder_of, split
from mae_vlm.convert.transformers import seen_by, sizes_of, timm_options

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's training pictures
_LAYER = r"(?:vision_model\.)?encoder\.layers\.(\d+)\."
_RULES = (
    (_LAYER + r"self_attn\.([qkv])_proj\.", r"blocks.\1.attn.\2."),
    (_LAYER + r"self_attn\.out_proj\.", r"blocks.\1.attn.proj."),
    (_LAYER + r"layer_norm([12])\.", r"blocks.\1.norm\2."),
    (_LAYER + r"mlp\.", r"blocks.\1.mlp."),
    (r"(?:vision_model\.)?embeddings\.class_embedding", "cls_token"),
    (r"(?:vision_model\.)?embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"(?:vision_model\.)?embeddings\.position_embedding\.weight", "pos_embed"),
    (r"(?:vision_model\.)?pre_layrnorm\.", "norm_pre."),  # their spelling
    (r"(?:vision_model\.)?post_layernorm\.", "norm."),
)
_TEXT, _LEFT = "text_model.", ("head.weight", "head.bias", "embeddings.position_ids")


def read(folder: Path, config: dict[str, Any]) -> Found:
    """What such a folder holds; projections and the temperature are not taken: they belong to CLIP's class token, ours to the patches.

    Raises:
        ValueError: a damaged file, or options that our encoder does not have.
    """
    vision, weights = config.get("vision_config") or config, tensors.of_folder(folder)
    told = words.taken(weights, _TEXT)
    clip = str(config.get("model_type")).startswith("clip")
    shaped = {name: _shaped(name, value) for name, value in naming.renamed(weights, _RULES).items()}
    unused, notes = list[str](), list[str]()
    placed = split(naming.fused(shaped, folder), unused)
    unused += sorted(f"{_TEXT}{name}" for name in _LEFT if told.pop(name, None) is not None)
    text = _text(folder, config, told, clip, notes) if told else None
    unused += sorted(f"{_TEXT}{name}" for name in told) if text is None else []
    sizes = sizes_of(vision) | seen_by(folder, *((MEAN, STD) if clip else ((0.5,) * 3, (0.5,) * 3)))
    sizes |= {"positions": "learned"} | ({} if clip else {"class_tokens": 0})
    options = timm_options(vision, folder) | ({"pre_norm": True} if clip else {})
    encoder = encoder_of(sizes, float(vision.get("layer_norm_eps", 1e-5 if clip else 1e-6)), **options)
    return Found(
        "transformers " + "/".join(config.get("architectures") or ["CLIP" if clip else "SigLIP"]),
        str(folder),
        encoder,
        placed,
        text=text,
        unused=tuple(unused),
        notes=tuple(notes),
    )


def _shaped(name: str, value: Tensor) -> Tensor:
    """Tables and tokens as timm has them, for one picture of a batch."""
    return value[None] if name == "pos_embed" else value[None, None] if name == "cls_token" else value


def _text(folder: Path, config: dict[str, Any], weights: dict[str, Tensor], clip: bool, notes: list[str]) -> Text | None:
    """The text tower; SigLIP's last layer belongs to its one feature of a text, which ours are not."""
    from transformers import CLIPTextConfig, SiglipTextConfig

    kind = CLIPTextConfig if clip else SiglipTextConfig
    stated = {key: value for key, value in (config.get("text_config") or {}).items() if value is not None}
    sizes = {name: stated.get(name, getattr(kind(), name)) for name in ("vocab_size", "max_position_embeddings")}
    found = words.text_of(folder, stated | sizes | {"model_type": kind.model_type}, weights, notes)
    if found is not None and not clip:
        notes.append("SigLIP was trained on texts padded to their whole length, and reads the padding; here nobody sees it")
    return found
