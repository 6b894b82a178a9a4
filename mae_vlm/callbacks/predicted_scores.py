"""Rows of a table: the classes of a picture with their scores, the best first, or its numbers."""

from __future__ import annotations

from typing import Any

from mae_vlm.types import Prediction

_MOST = 5  # classes told of a picture


def header(head: Any) -> list[str]:
    """The columns for a head."""
    if getattr(head, "numeric", False):
        return ["id", "value"] if head.classes == 1 else ["id", *(f"value_{place + 1}" for place in range(head.classes))]
    more = range(2, min(_MOST, head.classes) + 1)
    return ["id", "class", "score", *(title for place in more for title in (f"class_{place}", f"score_{place}"))]


def row(prediction: Prediction, head: Any) -> list[str]:
    """One picture's line, the best class first."""
    assert prediction.scores is not None
    if getattr(head, "numeric", False):
        return [prediction.id, *(f"{value:.6f}" for value in prediction.scores.tolist())]
    best = prediction.scores.topk(min(_MOST, head.classes))
    names = head.names or [str(number) for number in range(head.classes)]
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [prediction.id, *(text for number, score in pairs for text in (names[number], f"{score:.6f}"))]
