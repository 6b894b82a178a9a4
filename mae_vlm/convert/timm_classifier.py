"""A fine-tuned classifier in timm's layout: encoder, norm and linear layer as one timm model with the same logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mae_vlm.convert import native, timm
from mae_vlm.convert.found import Classifier
from mae_vlm.encoders.vit import Vit

_HEAD = "mae_vlm.heads.classify.Classify"


def write(checkpoint: Path, encoder: Vit, folder: Path, weights: str = "raw") -> list[Path]:
    """Write ``encoder`` with the classifier of its ``checkpoint``, see :func:`mae_vlm.convert.timm.write_classifier`.

    Raises:
        ValueError: there is no head of that kind, or several; or the folder holds such files already.
    """
    config, state = native.read(checkpoint, weights)
    name, options = _only_head(config, checkpoint)
    head = {key.removeprefix(f"heads.{name}."): value for key, value in state.items() if key.startswith(f"heads.{name}.")}
    classes = options.get("classes")
    named = [str(word) for word in classes] if isinstance(classes, list) else len(head["linear.bias"])
    return timm.write_classifier(Classifier(named, head), encoder, folder)


def _only_head(config: dict[str, Any], checkpoint: Path) -> tuple[str, dict[str, Any]]:
    heads = config.get("model", {}).get("init_args", {}).get("heads") or {}
    found = {name: one for name, one in heads.items() if isinstance(one, dict) and one.get("class_path") == _HEAD and _has_classes(one)}
    if len(heads) != 1 or len(found) != 1:
        held = ", ".join(heads) or "no head"
        raise ValueError(f"{checkpoint} holds {held}; timm's classifier is one {_HEAD} of classes; leave --classifier out")
    name, one = next(iter(found.items()))
    return name, dict(one.get("init_args") or {})


def _has_classes(head: dict[str, Any]) -> bool:
    return (head.get("init_args") or {}).get("loss", "cross_entropy") in ("cross_entropy", "binary")
