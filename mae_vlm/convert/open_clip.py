"""open_clip's .pt and .pth: the picture's tower of a CLIP with a vision transformer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from mae_vlm.convert import naming, tensors
from mae_vlm.convert.clip import MEAN, STD
from mae_vlm.convert.found import Found, encoder_of, split, square

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


def weights_of(content: dict[str, Any]) -> dict[str, Any] | None:
    """The state dict in such a file, by itself or beside an optimizer's; None where it is another."""
    inside = content.get("state_dict", content)
    weights = {str(name).removeprefix("module."): value for name, value in inside.items()} if isinstance(inside, dict) else {}
    return weights if {"visual.conv1.weight", "visual.class_embedding", "visual.ln_pre.weight"} <= weights.keys() else None


def read(weights: dict[str, Any], file: Path) -> Found:
    """What such a state dict holds of pictures; its text tower and projections are listed.

    Raises:
        ValueError: weights of another architecture, or a partial file.
    """
    found = naming.renamed(tensors.of_dict(weights, file), _RULES)
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
    note = f"{sizes['heads']} heads of attention and GELU, open_clip's at width {width}: the file tells neither (OpenAI's have quick GELU)"
    placed: dict[str, Tensor] = split(found, unused)
    return Found("open_clip", str(file), encoder_of(sizes, 1e-5, pre_norm=True), placed, unused=tuple(unused), notes=(note,))
