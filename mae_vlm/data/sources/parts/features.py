"""What ``datasets`` writes into a table's metadata about its columns."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa


def features(schema: Any) -> dict[str, Any]:
    """The feature descriptions that ``datasets`` writes into the table's metadata, by column; empty where there are none."""
    text = (schema.metadata or {}).get(b"huggingface", b"{}")
    found: dict[str, Any] = json.loads(text).get("info", {}).get("features", {})
    return found


def class_names(schema: Any, column: str) -> list[str] | None:
    """Names of the classes of a list column, where ``datasets`` has written them down."""
    feature = features(schema).get(column)
    inner = feature[0] if isinstance(feature, list) and feature else feature.get("feature") if isinstance(feature, dict) else None
    names = inner.get("names") if isinstance(inner, dict) else None
    return list(names) if names else None


def named(cells: Any, names: list[str]) -> Any:
    """Lists of numbers as lists of the names that they stand for."""
    return pa.array([None if cell is None else [names[int(code)] for code in cell] for cell in cells.to_pylist()], cells.type)
