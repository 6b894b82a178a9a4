"""transformers' BLIP folders: the picture's tower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mae_vlm.convert import naming, tensors
from mae_vlm.convert.clip import MEAN, STD
from mae_vlm.convert.found import Found, encoder_of, split
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


def read(folder: Path, config: dict[str, Any]) -> Found:
    """What such a folder holds of pictures; its text layers, which look at pictures in each of them, are none of ours and are listed.

    Raises:
        ValueError: a damaged file, or options that our encoder does not have.
    """
    vision, unused = config.get("vision_config") or config, list[str]()
    placed = split(naming.renamed(tensors.of_folder(folder), _RULES), unused)
    sizes = sizes_of(vision) | seen_by(folder, MEAN, STD) | {"positions": "learned"}
    encoder = encoder_of(sizes, float(vision.get("layer_norm_eps", 1e-5)), **timm_options(vision, folder))
    return Found("transformers " + "/".join(config.get("architectures") or ["BLIP"]), str(folder), encoder, placed, unused=tuple(unused))
