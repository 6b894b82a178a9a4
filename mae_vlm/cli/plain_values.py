"""Values of a config as the console and JSON take them."""

from __future__ import annotations

from typing import Any


def short(value: Any, most: int = 160) -> str:
    """A value for the console: of a long list its first entries and their number."""
    whole = str(value)
    return whole if len(whole) <= most or not isinstance(value, list) else f"{whole[:most]}... ({len(value):,} in all)"


def plain(value: Any) -> Any:
    """Tuples to lists and paths to text, all the way down, so that it survives JSON."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
