"""The MAE paper's code (.pth): an encoder with or without its decoder (``models_mae``), or fine-tuned (``models_vit``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mae_vlm import storage
from mae_vlm.convert import naming, tensors
from mae_vlm.convert.found import Classifier, Decoder, Found, encoder_of, is_plain, split, square
from mae_vlm.encoders.vit import Vit

FILE = "model.pth"
_HEADS = {1280: 16}  # of ViT-H, whose heads have 80 numbers; those of all others 64
_DECODER = ("decoder_", "mask_token")
_SIZES = "sizes"  # what their code builds its classes with, kept beside the weights by us; theirs looks at "model" alone


def is_one(content: dict[str, Any]) -> bool:
    """Whether a pickle of tensors is one of these: a state dict of theirs, in ``model`` or by itself."""
    weights = content.get("model", content)
    return isinstance(weights, dict) and {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= weights.keys()


def read(content: dict[str, Any], file: Path) -> Found:
    """What such a file holds.

    Raises:
        ValueError: weights of another architecture, or a partial file.
    """
    weights = tensors.of_dict(content.get("model", content), file)
    told = dict(content[_SIZES]) if isinstance(content.get(_SIZES), dict) else {}
    decoder = {name: value for name, value in weights.items() if name.startswith(_DECODER)}
    rest = {name: value for name, value in weights.items() if name not in decoder}
    classifier = _classifier(rest)
    unused: list[str] = []
    placed = split(
        {name: value for name, value in rest.items() if classifier is None or not name.startswith(("fc_norm.", "head."))}, unused
    )
    notes: list[str] = []
    sizes = _sizes(placed, told, file, notes) | ({"positions": "learned"} if classifier else {})
    return Found(
        "the MAE paper's code",
        str(file),
        encoder_of(sizes, 1e-6),
        placed,
        _decoder(decoder, told, file, notes) if decoder else None,
        classifier,
        ratio=float(told.get("mask_ratio", 0.75)),
        unused=tuple(unused),
        notes=tuple(notes),
        may_lack=("vit.norm.weight", "vit.norm.bias") if classifier else (),
    )


def _sizes(weights: dict[str, Tensor], told: dict[str, Any], file: Path, notes: list[str]) -> dict[str, Any]:
    table, kernel = weights["vit.pos_embed"], weights["vit.patch_embed.proj.weight"]
    width, patch = table.shape[-1], kernel.shape[-1]
    hidden, depth = weights.get("vit.blocks.0.mlp.fc1.weight"), naming.blocks(weights, "vit.blocks.")
    if hidden is None or table.ndim != 3 or kernel.ndim != 4:
        raise ValueError(f"{file} holds no whole encoder of the MAE paper's code: its blocks are missing; a partial file?")
    heads = int(told.get("heads") or _HEADS.get(width) or max(1, width // 64))
    if "heads" not in told:
        notes.append(f"{heads} heads of attention: the paper's at width {width}, the file does not tell")
    side = square(table.shape[1] - 1, file) * patch
    seen = {name: [float(one) for one in told[name]] for name in ("mean", "std") if name in told}
    return seen | {
        "width": width, "depth": depth, "heads": heads, "patch": patch, "mlp_ratio": len(hidden) / width, "image_size": side,
        "channels": kernel.shape[1], "positions": "sincos",
    }  # fmt: skip


def _decoder(weights: dict[str, Tensor], told: dict[str, Any], file: Path, notes: list[str]) -> Decoder:
    if "decoder_embed.weight" not in weights:
        raise ValueError(f"{file} holds a part of a decoder alone: {', '.join(sorted(weights)[:3])}")
    width = len(weights["decoder_embed.weight"])
    normalise = told.get("norm_pix_loss")
    if normalise is None:
        notes.append(
            "the file does not tell whether its decoder predicts normalised pixels; taken as normalised, the paper's recommendation"
        )
    options = {
        "width": width,
        "depth": naming.blocks(weights, "decoder_blocks."),
        "heads": int(told.get("decoder_heads") or max(1, width // 32)),
    }
    return Decoder(options | {"normalise": True if normalise is None else bool(normalise)}, weights)


def _classifier(weights: dict[str, Tensor]) -> Classifier | None:
    if not {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"} <= weights.keys():
        return None
    names = {"fc_norm": "norm", "head": "linear"}
    own = {f"{names[part]}.{kind}": weights[f"{part}.{kind}"] for part in names for kind in ("weight", "bias")}
    return Classifier(len(weights["head.bias"]), own)


def written(found: Found, encoder: Vit, classifier: bool = False) -> dict[str, Any]:
    """What their code loads: ``models_mae``, or ``models_vit`` with its ``classifier``.

    Raises:
        ValueError: their classes hold no such encoder.
    """
    if not is_plain(encoder):
        raise ValueError(f"{found.place}: the MAE paper's code holds a plain ViT of square pictures with one class token; take --to timm")
    weights = {name.removeprefix("vit."): value for name, value in encoder.state_dict().items() if name.startswith("vit.")}
    if classifier and found.classifier is not None:
        own = found.classifier.weights
        weights = {name: value for name, value in weights.items() if not name.startswith("norm.")}
        weights |= {
            f"{there}.{kind}": own[f"{here}.{kind}"]
            for here, there in (("norm", "fc_norm"), ("linear", "head"))
            for kind in ("weight", "bias")
        }
    elif found.decoder is not None:
        weights |= found.decoder.weights
    sizes = {"heads": encoder.vit.blocks[0].attn.num_heads, "mask_ratio": found.ratio}
    sizes |= {name: getattr(encoder, name).flatten().tolist() for name in ("mean", "std")}
    if found.decoder is not None:
        sizes |= {"decoder_heads": found.decoder.options["heads"], "norm_pix_loss": found.decoder.options["normalise"]}
    return {"model": {name: value.detach().contiguous().clone() for name, value in weights.items()}, _SIZES: sizes}


def write(found: Found, encoder: Vit, folder: Path, classifier: bool = False) -> list[Path]:
    """Write ``model.pth`` into ``folder``.

    Raises:
        ValueError: see :func:`written`.
    """
    content = written(found, encoder, classifier)
    storage.write_whole(folder / FILE, lambda file: torch.save(content, file))
    return [folder / FILE]
