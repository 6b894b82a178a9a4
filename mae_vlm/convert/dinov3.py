"""transformers' DINOv3 ViT folders, as timm's Eva."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from mae_vlm.convert import naming, tensors
from mae_vlm.convert.found import TIMM_VIT, Found, split
from mae_vlm.convert.transformers import seen_by, sizes_of
from mae_vlm.encoders.vit import IMAGENET_MEAN, IMAGENET_STD

_NAME = "vit_small_patch16_dinov3_qkvb"
_LAYER = r"(?:model\.)?layer\.(\d+)\."
_RULES = (
    (_LAYER + r"attention\.([qkv])_proj\.", r"blocks.\1.attn.\2."),
    (_LAYER + r"attention\.o_proj\.", r"blocks.\1.attn.proj."),
    (_LAYER + r"mlp\.up_proj\.", r"blocks.\1.mlp.fc1."),
    (_LAYER + r"mlp\.down_proj\.", r"blocks.\1.mlp.fc2."),
    (_LAYER + r"layer_scale([12])\.lambda1", r"blocks.\1.gamma_\2"),
    (_LAYER + r"norm([12])\.", r"blocks.\1.norm\2."),
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.register_tokens", "reg_token"),
    (r"embeddings\.patch_embeddings\.", "patch_embed.proj."),
)


def read(folder: Path, config: dict[str, Any]) -> Found:
    """What such a folder holds.

    Raises:
        ValueError: a damaged file, or a gated MLP or biases that timm's architecture does not have.
    """
    wanted = {
        "use_gated_mlp": False,
        "query_bias": True,
        "key_bias": False,
        "value_bias": True,
        "proj_bias": True,
        "mlp_bias": True,
        "hidden_act": "gelu",
    }
    other = [name for name, value in wanted.items() if config.get(name, value) != value]
    if other:
        raise ValueError(f"{folder}: a DINOv3 with {other[0]} {config[other[0]]} has no place in timm's architecture {_NAME}")
    unused: list[str] = []
    placed = split(_joined(naming.renamed(tensors.of_folder(folder), _RULES), folder), unused)
    sizes = sizes_of(config)
    registers = int(config.get("num_register_tokens", 0))
    if not registers:
        placed.pop("vit.reg_token", None)  # transformers keeps an empty one
    arguments = {
        "embed_dim": sizes["width"], "depth": sizes["depth"], "num_heads": sizes["heads"], "patch_size": sizes["patch"],
        "mlp_ratio": sizes["mlp_ratio"], "num_reg_tokens": registers, "rope_temperature": float(config.get("rope_theta", 100.0)),
    }  # fmt: skip
    eps = float(config.get("layer_norm_eps", 1e-5))
    options = {
        "name": _NAME,
        "arguments": arguments,
        "norm_eps": None if eps == 1e-5 else eps,
        "image_size": sizes["image_size"],
        "channels": sizes["channels"],
    }
    encoder = {"class_path": TIMM_VIT, "init_args": options | seen_by(folder, IMAGENET_MEAN, IMAGENET_STD)}
    return Found("transformers " + "/".join(config.get("architectures") or ["DINOv3"]), str(folder), encoder, placed, unused=tuple(unused))


def _joined(weights: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """Query, key and value as one matrix; the biases of query and value stay by themselves, as keys have none."""
    found = {name: value for name, value in weights.items() if not name.endswith((".attn.q.bias", ".attn.v.bias"))}
    found = naming.fused(found, folder)
    for name in weights.keys() - found.keys():
        if name.endswith((".attn.q.bias", ".attn.v.bias")):
            layer, _, part = name.removesuffix(".bias").rpartition(".")
            found[f"{layer}.{part}_bias"] = weights[name]
    return found
