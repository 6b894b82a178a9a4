"""The towers of words of a run as files beside its encoder: their classes, their weights and their vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from mae_vlm.convert import tensors
from mae_vlm.convert.found import Text

STATED, WEIGHTS, VOCABULARY = "words.json", "words.safetensors", "tokenizer.json"
FILES = (STATED, WEIGHTS, VOCABULARY)
_FORMAT = 1


def write(stated: dict[str, Any], weights: dict[str, Tensor], folder: Path) -> list[Path]:
    """Write what ``native.stated_words`` says of a run; nothing where it has no text tower."""
    if "text" not in stated:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    text = stated["text"] | {"init_args": dict(stated["text"].get("init_args") or {})}
    vocabulary = Path(text["init_args"]["vocabulary"]).read_text(encoding="utf-8")
    text["init_args"]["vocabulary"] = VOCABULARY
    own = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items() if not name.startswith("image.")}
    save_file(own, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / VOCABULARY).write_text(vocabulary, encoding="utf-8")
    told = {"format": _FORMAT, **stated, "text": text}
    (folder / STATED).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return [folder / name for name in FILES]


def read(files: dict[str, Path]) -> Text:
    """The opposite.

    Raises:
        ValueError: damaged, or of a newer format.
    """
    told = tensors.json_of(files[STATED])
    try:
        if told["format"] > _FORMAT:
            raise ValueError(f"{files[STATED]} has format {told['format']}, this version reads up to {_FORMAT}; update mae_vlm")
        options = told["text"]["init_args"] | {"vocabulary": str(files[VOCABULARY])}
        text = {"class_path": str(told["text"]["class_path"]), "init_args": options}
    except (KeyError, TypeError) as problem:
        raise ValueError(f"{files[STATED]} says nothing of a text tower ({problem!r})") from None
    return Text(text, tensors.safe(files[WEIGHTS]), told.get("fusion"), told.get("joint"))


def beside(folder: Path) -> Text | None:
    """The same out of a folder; None where there is none."""
    return read({name: folder / name for name in FILES}) if (folder / STATED).is_file() else None
