"""transformers' ViTMAE and ViT folders, in the names of the installed version and in those of the ones before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mae_vlm.convert import naming, tensors
from mae_vlm.convert.found import Decoder, Found, encoder_of, is_plain, split
from mae_vlm.encoders.vit import IMAGENET_MEAN, IMAGENET_STD, Vit
from mae_vlm.types import sides

KINDS = ("vit_mae", "vit")
ACTIVATIONS = {"gelu": None, "quick_gelu": "quick_gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}
_LAYER = r"(?:encoder\.layer|layers)\.(\d+)\."
_DECODER_LAYER = r"decoder\.(?:decoder_encoder\.layer|decoder_layers)\.(\d+)\."
_INSIDE = (
    (r"attention\.attention\.(q)uery\.", r"attn.\2."), (r"attention\.attention\.(k)ey\.", r"attn.\2."),
    (r"attention\.attention\.(v)alue\.", r"attn.\2."), (r"attention\.([qkv])_proj\.", r"attn.\2."),
    (r"attention\.(?:output\.dense|o_proj)\.", "attn.proj."), (r"(?:intermediate\.dense|mlp\.fc1)\.", "mlp.fc1."),
    (r"(?:output\.dense|mlp\.fc2)\.", "mlp.fc2."), (r"layernorm_before\.", "norm1."), (r"layernorm_after\.", "norm2."),
)  # fmt: skip
ENCODER_RULES = (
    *((r"(?:vit\.)?" + _LAYER + there, rf"blocks.\1.{here}") for there, here in _INSIDE),
    (r"(?:vit\.)?embeddings\.cls_token", "cls_token"),
    (r"(?:vit\.)?embeddings\.position_embeddings", "pos_embed"),
    (r"(?:vit\.)?embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"(?:vit\.)?layernorm\.", "norm."),
)
_RULES = (
    *((_DECODER_LAYER + there, rf"decoder_blocks.\1.{here}") for there, here in _INSIDE),
    *ENCODER_RULES,
    (r"decoder\.", ""),
)


def read(folder: Path, config: dict[str, Any]) -> Found:
    """What a folder of ViTMAEForPreTraining, ViTMAEModel, ViTModel or a ViT with a head holds; a pooler or head is none of ours.

    Raises:
        ValueError: a damaged file, or options that our encoder does not have.
    """
    weights = naming.fused(naming.renamed(tensors.of_folder(folder), _RULES), folder)
    decoder = {name: weights.pop(name) for name in list(weights) if name.startswith(("decoder_", "mask_token"))}
    unused: list[str] = []
    placed = split(weights, unused)
    eps = float(config.get("layer_norm_eps", 1e-12))
    mae = config.get("model_type") == "vit_mae"
    sizes = sizes_of(config) | seen_by(folder, *((IMAGENET_MEAN, IMAGENET_STD) if mae else ((0.5,) * 3, (0.5,) * 3)))
    sizes |= {"positions": "sincos" if mae else "learned"}
    made = _decoder(config, decoder, eps, unused)
    return Found(
        "transformers " + "/".join(config.get("architectures") or [str(config.get("model_type"))]),
        str(folder),
        encoder_of(sizes, eps, **timm_options(config, folder)),
        placed,
        made,
        ratio=float(config.get("mask_ratio", 0.75)),
        unused=tuple(unused),
    )


def sizes_of(config: dict[str, Any]) -> dict[str, Any]:
    """The sizes of a transformer and its pictures, as :class:`mae_vlm.encoders.vit.Vit` names them."""
    width = int(config.get("hidden_size", 768))
    size = config.get("image_size", 224)
    return {
        "width": width,
        "depth": int(config.get("num_hidden_layers", 12)),
        "heads": int(config.get("num_attention_heads", 12)),
        "patch": int(sides(config.get("patch_size", 16))[0]),
        "mlp_ratio": int(config.get("intermediate_size", 4 * width)) / width,
        "image_size": size if isinstance(size, int) else list(size),
        "channels": int(config.get("num_channels", 3)),
    }


def timm_options(config: dict[str, Any], place: object) -> dict[str, Any]:
    """What must be said to timm: another activation than GELU, no biases in the attention.

    Raises:
        ValueError: an activation that timm's MLP does not have.
    """
    act = str(config.get("hidden_act", "gelu"))
    if act not in ACTIVATIONS:
        raise ValueError(f"{place}: its hidden_act {act} is none of {', '.join(ACTIVATIONS)}")
    return ({"act_layer": ACTIVATIONS[act]} if ACTIVATIONS[act] else {}) | ({} if config.get("qkv_bias", True) else {"qkv_bias": False})


def seen_by(folder: Path, mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, list[float]]:
    """Mean and deviation of its pictures: of preprocessor_config.json, else those that such models have."""
    file = folder / "preprocessor_config.json"
    told = tensors.json_of(file) if file.is_file() else {}
    told = {"mean": told.get("image_mean") or mean, "std": told.get("image_std") or std}
    return {name: [float(one) for one in values] for name, values in told.items()}


def _decoder(config: dict[str, Any], weights: dict[str, Tensor], eps: float, unused: list[str]) -> Decoder | None:
    """Their decoder, where ours can be like it: with biases, and an MLP of 4 times its width."""
    width = int(config.get("decoder_hidden_size", 512))
    if not weights or int(config.get("decoder_intermediate_size", 4 * width)) != 4 * width or not config.get("qkv_bias", True):
        unused += sorted(weights)
        return None
    options = {
        "width": width,
        "depth": int(config.get("decoder_num_hidden_layers", 8)),
        "heads": int(config.get("decoder_num_attention_heads", 16)),
    }
    return Decoder(options | {"normalise": bool(config.get("norm_pix_loss", False))}, weights, eps)


# -- out


def write(found: Found, encoder: Vit, folder: Path) -> list[Path]:
    """Write a folder of ViTMAEForPreTraining, or of ViTMAEModel where there is no decoder, through transformers' own classes.

    Raises:
        ValueError: its classes hold no such encoder.
    """
    from transformers import ViTMAEForPreTraining, ViTMAEModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = _config(found, encoder)
    with torch.device("meta"):
        model = (ViTMAEModel if found.decoder is None else ViTMAEForPreTraining)(config)
    model.load_state_dict(_theirs(found, encoder), strict=True, assign=True)
    model.save_pretrained(folder)
    told = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255,
        "resample": 3, "size": {"height": encoder.space.height, "width": encoder.space.width},
        "image_mean": encoder.mean.flatten().tolist(), "image_std": encoder.std.flatten().tolist(),
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(told, indent=2) + "\n")
    return sorted(folder.iterdir())


def _config(found: Found, encoder: Vit) -> Any:
    from transformers import ViTMAEConfig

    space, vit = encoder.space, encoder.vit
    if not is_plain(encoder):
        raise ValueError(
            f"{found.place}: transformers' ViTMAE is a plain ViT of square pictures with one class token and no registers; take --to timm"
        )
    block, decoder = vit.blocks[0], found.decoder.options if found.decoder else {}
    width = decoder.get("width", 512)
    return ViTMAEConfig(
        hidden_size=encoder.width, num_hidden_layers=len(vit.blocks), num_attention_heads=block.attn.num_heads,
        intermediate_size=block.mlp.fc1.out_features, layer_norm_eps=block.norm1.eps, image_size=space.height, patch_size=space.patch,
        num_channels=space.channels, qkv_bias=block.attn.qkv.bias is not None, decoder_hidden_size=width,
        decoder_num_hidden_layers=decoder.get("depth", 8), decoder_num_attention_heads=decoder.get("heads") or max(1, width // 32),
        decoder_intermediate_size=4 * width, norm_pix_loss=decoder.get("normalise", True), mask_ratio=found.ratio, hidden_act="gelu",
    )  # fmt: skip


def _theirs(found: Found, encoder: Vit) -> dict[str, Tensor]:
    """Weights by the names of the installed classes."""
    inside = {
        "norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.o_proj",
        **{f"attn.{part}": f"attention.{part}_proj" for part in "qkv"},
    }  # fmt: skip
    rules = [(rf"(decoder_)?blocks\.(\d+)\.{part.replace('.', chr(92) + '.')}\.", rf"\1layers.\2.{name}.") for part, name in inside.items()]
    rules += [
        (r"(decoder_)?blocks\.", r"\1layers."),
        (r"cls_token", "embeddings.cls_token"),
        (r"pos_embed", "embeddings.position_embeddings"),
    ]
    rules += [(r"patch_embed\.proj\.", "embeddings.patch_embeddings.projection."), (r"norm\.", "layernorm.")]
    own = {name.removeprefix("vit."): value for name, value in encoder.state_dict().items() if name.startswith("vit.")}
    weights = {name: value.contiguous() for name, value in naming.renamed(naming.unfused(own), rules).items()}
    if found.decoder is None:
        return weights
    decoder = naming.renamed(naming.unfused(found.decoder.weights), rules)
    return {f"vit.{name}": value for name, value in weights.items()} | {
        f"decoder.{name}": value.contiguous() for name, value in decoder.items()
    }
