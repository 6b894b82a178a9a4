"""Automatic choices of a run that reads captions: the vocabulary, and augmentation that does not contradict words."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from mae_vlm.cli.chooser import Chooser
from mae_vlm.data import captions
from mae_vlm.data.sources.base import Source
from mae_vlm.encoders.text.base import TextTower

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
        c.fill(f"{_AT}.vocabulary", lambda: _learned(train(), text))
    if "data.crop_scale" not in said and c.get("data.crop_scale") in _CROPS:
        c.config["data"]["crop_scale"] = None
        c.fill("data.crop_scale", lambda: ([0.6, 1.0], "captions tell of the whole picture"))
    if "data.flip" not in said:
        c.config["data"]["flip"] = None
        c.fill("data.flip", lambda: (0.0, "captions may tell left from right"))


def present(config: dict[str, Any], train: Callable[[], Source]) -> None:
    """See that the vocabulary of the run is on this machine too: a checkpoint brings it, or the same captions give the same one.

    Raises:
        ValueError: the captions here give another one.
    """
    text = (config["model"].get("init_args") or {}).get("text") or {}
    options = text.get("init_args") or {}
    place = options.get("vocabulary")
    if place is None or not captions.is_kept(place) or Path(place).is_file():
        return
    here = captions.kept_as(Path(place).name)  # another machine, or another cache: its name says what it holds
    if not here.is_file() and Path(_learned(train(), text)[0]) != here:
        raise ValueError(
            f"model.text.vocabulary {place} is gone, and the captions here give another one; bring it back, or set it to null to learn one"
        )
    options["vocabulary"] = str(here)


def _learned(train: Source, text: dict[str, Any]) -> tuple[str, str]:
    vocabulary = captions.learned(train, kind=_kind(text))
    return str(captions.kept(vocabulary.json)), f"{len(vocabulary):,} tokens, learned from the training captions"


def _kind(text: dict[str, Any]) -> str:
    """The kind of vocabulary that a text tower of ours takes."""
    module, _, name = str(text.get("class_path")).rpartition(".")
    found = getattr(import_module(module), name, TextTower) if module.startswith("mae_vlm.") else TextTower
    return str(getattr(found, "learns", TextTower.learns))
