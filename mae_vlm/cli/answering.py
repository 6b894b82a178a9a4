"""Automatic choice of parts that answer questions: the answers to choose from."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from mae_vlm.cli.chooser import Chooser
from mae_vlm.data.answers import VQA, common
from mae_vlm.data.sources.base import Source

_ROOMS = {"heads": "mae_vlm.heads.", "objectives": "mae_vlm.objectives."}


def answers(c: Chooser, train: Callable[[], Source]) -> None:
    """The commonest answers of the training data, for each head and objective that ``learns`` answers and is told none.

    Raises:
        ValueError: the collection has no questions.
    """
    for room, start in _ROOMS.items():
        for name, part in (c.get(f"model.init_args.{room}") or {}).items():
            if learns_answers(part, start):
                options = part.setdefault("init_args", {})
                options.setdefault("classes", None)
                c.fill(f"model.init_args.{room}.{name}.init_args.classes", lambda options=options: _found(options, train()))  # type: ignore[misc]


def learns_answers(part: Any, start: str) -> bool:
    """Whether a part of the config, of a class whose path begins so, chooses among answers."""
    module, _, name = str(part.get("class_path") if isinstance(part, dict) else "").rpartition(".")
    if not module.startswith(start):
        return False
    try:
        return getattr(getattr(import_module(module), name, None), "learns", "") == "answers"
    except ImportError:
        return False  # the parser tells


def _found(options: dict[str, Any], train: Source) -> tuple[list[str], str]:
    names = common(train, int(options.get("least") or 1), int(options.get("most") or VQA))
    return names, f"the {len(names):,} commonest answers of the training data"
