"""Which classes a stored config may name: opening somebody's checkpoint must not run somebody's code."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from jsonargparse import set_parsing_settings
from jsonargparse._common import parsing_settings

TRUSTED = ("mae_vlm", "torch.nn", "torch.optim")
VARIABLE = "MAE_VLM_TRUST"
# what a command line names by short names; a stored config keeps none of it
_TRAINER = tuple(f"lightning.pytorch.{part}" for part in ("accelerators", "callbacks", "loggers", "plugins", "profilers", "strategies"))
_CLASSES = ("model", "trainer")  # the options that may name one
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")


def check(config: dict[str, Any], origin: object, said: Mapping[str, Any]) -> dict[str, Any]:
    """The stored config itself, once every class that it names is one of ours, or of a package that the user trusts.

    Args:
        config: as read from a checkpoint.
        origin: that checkpoint's name, for the error.
        said: what the user said on the command line and in configs, by flat dotted keys; to name a class there is to trust its
            package. ``$MAE_VLM_TRUST`` names more packages, by commas.

    Raises:
        ValueError: a class that nobody vouches for; nothing of it is imported.
    """
    allowed = _allowed(said)
    for path in _class_paths(config):
        if not any(_under(path, one) for one in allowed):
            raise ValueError(
                f"{origin} names the class {path}, which is no part of mae_vlm, and building it would run its code; if you trust it, set "
                f"{VARIABLE}={path.partition('.')[0]}, or name the class yourself in the command"
            )
    return config


@contextmanager
def nothing_else(said: Mapping[str, Any]) -> Iterator[None]:
    """While it lasts, a value that jsonargparse parses imports nothing but what :func:`check` allows, however the value is written."""
    kept = dict(parsing_settings)
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=[*_TRAINER, *_allowed(said)])
    try:
        yield
    finally:
        parsing_settings.update(kept)


def _allowed(said: Mapping[str, Any]) -> list[str]:
    own = [name.strip().rstrip(".") for name in os.environ.get(VARIABLE, "").split(",")]
    texts = [str(value) for key, value in said.items() if key.partition(".")[0] in _CLASSES and key != "trainer.default_root_dir"]
    named = {found.partition(".")[0] for text in texts for found in _DOTTED.findall(text)} - {"jsonargparse"}
    return [*TRUSTED, *(name for name in own if name), *sorted(named)]


def _under(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(prefix + ".")


def _class_paths(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "class_path" in value:
            yield str(value["class_path"])
        for part in value.values():
            yield from _class_paths(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _class_paths(part)
