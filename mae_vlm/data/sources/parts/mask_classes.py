"""Masks whose numbers are class numbers: the names of the classes, how many there are, and the masks themselves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mae_vlm.data.sources.parts.mask_pixels import read_numbers, shown_size, unlabelled

_FILES = ("classes.txt", "classes.json", "semantic_classes.json")
_ASKED = 64  # masks that tell how many classes there are
_BLANK_16 = 65535


@dataclass(frozen=True)
class ClassNumbers:
    """``Deferred`` class numbers that stand in ``file`` as they are; with ``binary`` 255 is class 1.

    255 is unlabelled where there are at most 255 classes, 65535 always.
    """

    id: str
    image: bytes | Path | Tensor
    file: Path
    classes: int
    binary: bool = False

    def decode(self, objects: slice = slice(None)) -> Tensor:
        """As ``Sample.semantic``; ValueError where the file is damaged, of another size, or holds a class that there is not."""
        numbers_HW = read_numbers(self.file, self.id, shown_size(self.image, self.id), colours=False)
        nothing, kind = unlabelled(self.classes)
        if self.binary:
            numbers_HW = np.where(numbers_HW == 255, 1, numbers_HW)
        blank_HW = numbers_HW == _BLANK_16
        if self.classes <= 255:
            blank_HW |= numbers_HW == 255
        highest = int(numbers_HW.max(where=~blank_HW, initial=0))
        if highest >= self.classes:
            raise ValueError(
                f"{self.id}: mask {self.file} holds class {highest} of {self.classes}; correct it, or name all classes in classes.txt"
            )
        return torch.from_numpy(np.where(blank_HW, nothing, numbers_HW).astype(kind))


def class_names(folders: Sequence[Path]) -> list[str] | None:
    """The names in the first ``classes.txt``, ``classes.json`` or ``semantic_classes.json`` of these folders; None where there is none.

    Raises:
        ValueError: the file is of no form that we know.
    """
    file = next((folder / name for folder in folders for name in _FILES if (folder / name).is_file()), None)
    if file is None:
        return None
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".txt":
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        return _names(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(f'{file} does not tell the names of classes; write a list of names, or {{"0": "sky", "1": ...}}') from None


def count_classes(masks: Sequence[Path]) -> tuple[int, bool]:
    """(number of classes, whether 255 is class 1): the highest number, and one, in a sample of these masks spread over all.

    Raises:
        ValueError: a mask of the sample cannot be read.
    """
    found: set[int] = set()
    for file in masks[:: max(1, len(masks) // _ASKED)]:
        found.update(np.unique(read_numbers(file, file.name, colours=False)).tolist())
    binary = 255 in found and found <= {0, 255}
    return (2 if binary else max(found - {255, _BLANK_16}, default=0) + 1), binary


def _names(found: Any) -> list[str]:
    """Names from a list of names or of entries with index (or id) and name, a dict by number, or one of these under ``classes``."""
    if isinstance(found, dict) and "classes" in found:
        return _names(found["classes"])
    if isinstance(found, dict):
        found = [{"index": int(number), "name": name} for number, name in found.items()]
    if all(isinstance(one, str) for one in found):
        return list(found)
    by_number = {int(one["index"] if "index" in one else one["id"]): str(one["name"]) for one in found}
    return [by_number.get(number, str(number)) for number in range(max(by_number) + 1)]
