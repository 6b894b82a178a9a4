"""Passwords and tokens have no place among the options: they would be stored in the run's config, its checkpoints and its logs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from mae_vlm.hub.secrecy import NAME, QUERY, SHORTEST, USER, VARIABLE

_INSTEAD = (
    "it would be written to config.yaml, every checkpoint and the logs; put it into the environment (HF_TOKEN, AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, WANDB_API_KEY) or the provider's own file (~/.aws/credentials, ~/.netrc), and leave it out here"
)


def found(arguments: list[str], configs: list[dict[str, Any]], environment: Mapping[str, str]) -> str:
    """What to say of a secret on the command line or in a config, without repeating it; nothing where none is told.

    Told are option names (``api_key``, ``hf_token`` ...) with text, addresses with a user, password or signature, and the value of a
    variable of the environment whose name says that it is a secret.
    """
    hidden = {name: value for name, value in environment.items() if VARIABLE.search(name) and len(value) >= SHORTEST}
    for place, text in _texts(arguments, configs):
        if why := _why(place, text, hidden):
            return f"{place} {why}: {_INSTEAD}"
    return ""


def _texts(arguments: list[str], configs: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """(where it stands, text) of everything that was said."""
    for config in configs:
        yield from _leaves(config, "")
    place = ""
    for word in arguments:
        if word.startswith("-"):
            place, equals, word = word.lstrip("-").partition("=")
            if not equals:
                continue
        yield from _leaves(_structure(word), place or "the command line")


def _structure(word: str) -> Any:
    """What the parser will make of a word: a list or a dictionary where it is one."""
    try:
        return yaml.safe_load(word) if word.lstrip()[:1] in ("{", "[") else word
    except yaml.YAMLError:
        return word


def _leaves(value: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _leaves(part, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part, place)
    elif value is not None and not isinstance(value, bool) and str(value):
        yield place, str(value)


def _why(place: str, text: str, hidden: Mapping[str, str]) -> str:
    if NAME.search(place) and not re.fullmatch(r"[0-9]{1,4}", text) and text.lower() not in ("null", "none", "true", "false"):
        return "is a password or token by its name"
    if address := USER.search(text):
        return f"holds a user or password ({address[1]}***@...)"
    if "://" in text and (query := QUERY.search(text)):
        return f"holds a password, token or signature (...{query[1]}***)"
    held = next((name for name, value in hidden.items() if value in text), None)
    return f"holds the value of ${held}" if held else ""
