"""Files of tensors, read without running anything that they hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint

SAFE, SHARDED, PICKLED = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"


def of_folder(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder as timm or transformers writes it: one safetensors file, several with an index, or a pickle of tensors.

    Raises:
        ValueError: none is there, one is damaged or cut short, or a pickle is not plain tensors.
    """
    if (folder / SAFE).is_file():
        return safe(folder / SAFE)
    if (folder / SHARDED).is_file():
        names = sorted(set(json_of(folder / SHARDED)["weight_map"].values()))
        return {name: value for file in names for name, value in safe(folder / Path(str(file)).name).items()}
    if (folder / PICKLED).is_file():
        content = pickled(folder / PICKLED)
        return of_dict(content, folder / PICKLED)
    raise ValueError(f"{folder} has a config.json and no weights: no {SAFE}, {SHARDED} or {PICKLED}")


def safe(file: Path) -> dict[str, Tensor]:
    """A safetensors file.

    Raises:
        ValueError: it is not there, not one, or cut short.
    """
    try:
        return dict(load_file(str(file)))
    except (SafetensorError, OSError, ValueError) as problem:
        raise ValueError(f"{file} is no whole safetensors file: {' '.join(str(problem).split())}") from None


def pickled(file: Path) -> dict[str, Any]:
    """What ``torch.save`` wrote: tensors and plain data alone.

    Raises:
        ValueError: it is damaged, or holds anything that would run code.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except PermissionError:
        raise ValueError(f"{file} may not be read; see its permissions") from None
    except Exception as problem:  # torch's own words advise to load it with pickle, which runs whatever code the file holds
        named = _classes(file)
        why = f"a pickle that is not plain tensors: it names {', '.join(named)}" if named else f"damaged ({type(problem).__name__})"
        told = '; if you trust it, save its weights alone: torch.save({"model": content["model"]}, file)' if named else ""
        raise ValueError(f"{file} is refused: it is {why}{told}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}, no weights by name")
    return content


def _classes(file: Path) -> list[str]:
    """What a pickle names that is more than tensors, without building any of it; empty where the file is damaged."""
    try:
        return sorted(get_unsafe_globals_in_checkpoint(file))[:3]
    except Exception:  # what is cut short raises whatever zip and pickle do
        return []


def of_dict(content: dict[Any, Any], file: Path) -> dict[str, Tensor]:
    """The same, once all of it is tensors by name.

    Raises:
        ValueError: it is not.
    """
    strange = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if strange or not content:
        raise ValueError(f"{file} is no state dict: {strange[0] if strange else 'it'} is no tensor")
    return {str(name): value for name, value in content.items()}


def json_of(file: Path) -> dict[str, Any]:
    """A mapping in a JSON file.

    Raises:
        ValueError: it is none.
    """
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as problem:
        raise ValueError(f"{file} cannot be read as JSON: {' '.join(str(problem).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}, not options by name")
    return content
