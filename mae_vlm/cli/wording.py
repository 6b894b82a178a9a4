"""Automatic choices of a run that reads captions: the vocabulary, and augmentation that does not contradict words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mae_vlm.cli.chooser import Chooser
from mae_vlm.data import captions
from mae_vlm.data.sources.base import Source

_AT = "model.init_args.text.init_args"
_CROPS = ([0.2, 1.0], (0.2, 1.0))  # the default for pictures alone


def words(c: Chooser, train: Callable[[], Source], said: frozenset[str]) -> None:
    """A vocabulary learned from the training captions where none is named; crops of .6 and more and no flips where none are asked for.

    ``said`` are the flat keys that the user has set.

    Raises:
        ValueError: the collection has no captions.
    """
    text = c.get("model.init_args.text")
    if not isinstance(text, dict):
        return
    options: dict[str, Any] = text.setdefault("init_args", {})
    if options.get("name") is None:
        options.setdefault("vocabulary", None)
        c.fill(f"{_AT}.vocabulary", lambda: _learned(train()))
    if "data.crop_scale" not in said and c.get("data.crop_scale") in _CROPS:
        c.config["data"]["crop_scale"] = None
        c.fill("data.crop_scale", lambda: ([0.6, 1.0], "captions tell of the whole picture"))
    if "data.flip" not in said:
        c.config["data"]["flip"] = None
        c.fill("data.flip", lambda: (0.0, "captions may tell left from right"))


def present(config: dict[str, Any], train: Callable[[], Source]) -> None:
    """See that the vocabulary the first process learned is on this machine too: the same captions give the same one."""
    options = ((config["model"].get("init_args") or {}).get("text") or {}).get("init_args") or {}
    place = options.get("vocabulary")
    if place is not None and captions.is_kept(place) and not Path(place).is_file():
        options["vocabulary"] = _learned(train())[0]


def _learned(train: Source) -> tuple[str, str]:
    vocabulary = captions.learned(train)
    return str(captions.kept(vocabulary.json)), f"{len(vocabulary):,} tokens, learned from the training captions"
