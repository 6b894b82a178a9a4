"""open_clip's .pt and .pth: a CLIP whose towers are both transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from mae_vlm.convert import naming, tensors, words
from mae_vlm.convert.clip import MEAN, STD
from mae_vlm.convert.found import Found, Text, encoder_of, split, square

_LAYER = r"visual\.transformer\.resblocks\.(\d+)\."
_RULES = (
    (_LAYER + r"attn\.in_proj_(weight|bias)", r"blocks.\1.attn.qkv.\2"),
    (_LAYER + r"attn\.out_proj\.", r"blocks.\1.attn.proj."),
    (_LAYER + r"ln_([12])\.", r"blocks.\1.norm\2."),
    (_LAYER + r"mlp\.c_fc\.", r"blocks.\1.mlp.fc1."),
    (_LAYER + r"mlp\.c_proj\.", r"blocks.\1.mlp.fc2."),
    (r"visual\.class_embedding", "cls_token"),
    (r"visual\.positional_embedding", "pos_embed"),
    (r"visual\.conv1\.", "patch_embed.proj."),
    (r"visual\.ln_pre\.", "norm_pre."),
    (r"visual\.ln_post\.", "norm."),
)
_HEADS = {1280: 16, 1408: 16, 1664: 16}  # of ViT-H, g and bigG; those of the others have 64 numbers
_WORDS = ("token_embedding.weight", "positional_embedding", "ln_final.", "transformer.resblocks.")
_TEXT_LAYER = r"transformer\.resblocks\.(\d+)\."
_TEXT_RULES = (  # to the names of transformers' CLIP, whose query, key and value are three
    (_TEXT_LAYER + r"attn\.in_proj_(weight|bias)", r"encoder.layers.\1.attn.qkv.\2"),
    (_TEXT_LAYER + r"attn\.out_proj\.", r"encoder.layers.\1.self_attn.out_proj."),
    (_TEXT_LAYER + r"ln_([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (_TEXT_LAYER + r"mlp\.c_fc\.", r"encoder.layers.\1.mlp.fc1."),
    (_TEXT_LAYER + r"mlp\.c_proj\.", r"encoder.layers.\1.mlp.fc2."),
    (r"token_embedding\.", "embeddings.token_embedding."),
    (r"positional_embedding", "embeddings.position_embedding.weight"),
    (r"ln_final\.", "final_layer_norm."),
)
_THREE = ((r"(encoder\.layers\.\d+)\.attn\.([qkv])\.", r"\1.self_attn.\2_proj."),)


def weights_of(content: dict[str, Any]) -> dict[str, Any] | None:
    """The state dict in such a file, by itself or beside an optimizer's; None where it is another."""
    inside = content.get("state_dict", content)
    weights = {str(name).removeprefix("module."): value for name, value in inside.items()} if isinstance(inside, dict) else {}
    return weights if {"visual.conv1.weight", "visual.class_embedding", "visual.ln_pre.weight"} <= weights.keys() else None


def read(weights: dict[str, Any], file: Path) -> Found:
    """What such a state dict holds; its projections are listed.

    Raises:
        ValueError: weights of another architecture, or a partial file.
    """
    given, notes = tensors.of_dict(weights, file), list[str]()
    text = _text(given, file, notes)
    found = naming.renamed(given, _RULES)
    table_TD, kernel, hidden = found["pos_embed"], found["patch_embed.proj.weight"], found.get("blocks.0.mlp.fc1.weight")
    if hidden is None or table_TD.ndim != 2:
        raise ValueError(f"{file} holds no whole picture tower of open_clip; a partial file?")
    found |= {"pos_embed": table_TD[None], "cls_token": found["cls_token"].reshape(1, 1, -1)}
    width, unused = table_TD.shape[-1], list[str]()
    sizes: dict[str, Any] = {
        "width": width, "depth": naming.blocks(found), "heads": _HEADS.get(width) or max(1, width // 64), "patch": kernel.shape[-1],
        "mlp_ratio": len(hidden) / width, "image_size": square(len(table_TD) - 1, file) * kernel.shape[-1], "channels": kernel.shape[1],
        "positions": "learned", "mean": list(MEAN), "std": list(STD),
    }  # fmt: skip
    notes.append(
        f"{sizes['heads']} heads of attention and GELU, open_clip's at width {width}: the file tells neither (OpenAI's have quick GELU)"
    )
    placed: dict[str, Tensor] = split(found, unused)
    encoder = encoder_of(sizes, 1e-5, pre_norm=True)
    return Found("open_clip", str(file), encoder, placed, text=text, unused=tuple(unused), notes=tuple(notes))


def _text(weights: dict[str, Tensor], file: Path, notes: list[str]) -> Text | None:
    """Its text tower as transformers' CLIP has it, taken out of the ``weights``, where its vocabulary lies beside the file."""
    prefix = "text." if "text.token_embedding.weight" in weights else ""
    there = {name: value for name, value in weights.items() if name.removeprefix(prefix).startswith(_WORDS) and name.startswith(prefix)}
    layers = {name.removeprefix(prefix): value for name, value in there.items()}
    own = naming.renamed(naming.unfused(naming.renamed(layers, _TEXT_RULES)), _THREE)
    table_VD, positions_TD = own.get("embeddings.token_embedding.weight"), own.get("embeddings.position_embedding.weight")
    hidden = own.get("encoder.layers.0.mlp.fc1.weight")
    if table_VD is None or positions_TD is None or hidden is None:
        return None
    config = {
        "model_type": "clip_text_model", "vocab_size": len(table_VD), "hidden_size": table_VD.shape[1], "intermediate_size": len(hidden),
        "num_hidden_layers": naming.blocks(own, "encoder.layers."), "num_attention_heads": max(1, table_VD.shape[1] // 64),
        "max_position_embeddings": len(positions_TD), "hidden_act": "gelu", "layer_norm_eps": 1e-5,
    }  # fmt: skip
    found = words.text_of(file.parent, config, own, notes)
    for name in there if found is not None else ():
        del weights[name]
    return found
