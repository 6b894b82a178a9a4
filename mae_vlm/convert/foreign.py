"""Which format files are of, told by their content, and what they hold; files of our own are none of these."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from mae_vlm import pieces
from mae_vlm.convert import albef, facebook, open_clip, pushed_words, tensors, timm
from mae_vlm.convert.found import Found
from mae_vlm.hub.names import fetched, is_name
from mae_vlm.types import CHECKPOINT_KEY

# transformers' model_type to the file of ours that reads it
_READERS = {
    "vit_mae": "transformers",
    "vit": "transformers",
    "clip": "clip",
    "clip_vision_model": "clip",
    "siglip": "clip",
    "siglip_vision_model": "clip",
    "vilt": "vilt",
    "blip": "blip",
    "dinov3_vit": "dinov3",
}
_PICKLES = (".pth", ".pt", ".bin")
KNOWN = "a run of ours, a timm folder, a transformers folder, a .pth of the MAE paper's code, of open_clip or of ALBEF"


def read(source: str | Path) -> Found | None:
    """What a folder, a file or a name on the hub (``hf://org/name``) holds; None where it must be ours, or is not there.

    A name is of another format where it has no config.yaml, which every push of ours puts there.

    Raises:
        ValueError: a known format that is damaged or of another architecture, or a pickle that is not plain tensors.
    """
    if is_name(source):
        folder = _on_hub(str(source))
        return None if folder is None else _folder(folder)
    place = Path(source)
    if (place / "config.json").is_file() and not (place / "checkpoints").is_dir():
        return _folder(place)
    if place.is_file() and place.suffix == ".safetensors":
        if (place.parent / "config.json").is_file():
            return _folder(place.parent)
        raise ValueError(f"{place} has no config.json beside it to say what its weights are of; known are {KNOWN}")
    if place.is_file() and place.suffix in _PICKLES:
        return _pickle(place)
    if place.is_dir() and not (place / "checkpoints").is_dir() and not pieces.in_pieces(place):
        return _lone(place)
    return None


def _lone(folder: Path) -> Found | None:
    """What the one file of weights in a folder holds, as ``convert --to facebook`` writes it; None where there is none.

    Raises:
        ValueError: there are several, among which nobody can choose.
    """
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.suffix in (*_PICKLES, ".safetensors"))
    if len(files) > 1:
        raise ValueError(f"{folder} holds {len(files)} files of weights, {', '.join(file.name for file in files[:3])}; name one of them")
    return read(files[0]) if files else None


def _on_hub(name: str) -> Path | None:
    """The folder of a timm or transformers model that was downloaded; None where a push of ours put it there, or it is none of these."""
    try:
        fetched(name, "config.yaml")
        return None
    except ValueError as problem:
        if "it has no config.yaml" not in str(problem):  # the network is gone: who asks next tells it
            return None
    try:
        return fetched(name, "config.json", tensors.SAFE)[tensors.SAFE].parent
    except ValueError:
        return None


def _folder(folder: Path) -> Found:
    config = tensors.json_of(folder / "config.json")
    if isinstance(config.get("architecture"), str):
        return replace(timm.read(folder), text=pushed_words.beside(folder))  # a push of ours puts words beside
    kind = config.get("model_type")
    if kind not in _READERS:
        raise ValueError(
            f"{folder}: its config.json names neither an architecture of timm nor one of the model types {', '.join(_READERS)}"
        )
    found: Found = import_module(f"mae_vlm.convert.{_READERS[kind]}").read(folder, config)
    return found


def _pickle(file: Path) -> Found | None:
    content: dict[str, Any] = tensors.pickled(file)
    if CHECKPOINT_KEY in content:
        return None
    if facebook.is_one(content):
        return facebook.read(content, file)
    if albef.is_one(content):
        return albef.read(content, file)
    if (weights := open_clip.weights_of(content)) is not None:
        return open_clip.read(weights, file)
    raise ValueError(f"{file} is of no known format; known are {KNOWN}")
