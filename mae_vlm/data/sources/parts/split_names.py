"""The words by which folders and files say which part of a collection they are."""

from __future__ import annotations

import re

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


def split_in(name: str) -> str | None:
    """The one part that the words of a name tell: "val" of ``instances_val2017.json``, nothing of ``train_and_val.json``."""
    found = {SPLIT_NAMES[word] for word in re.findall("[a-z]+", name.lower()) if word in SPLIT_NAMES}
    return found.pop() if len(found) == 1 else None
