"""What heads say in words, as a table; and picture by picture as lines of JSON, while it comes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mae_vlm import storage
from mae_vlm.types import Prediction

SUFFIX = ".said"  # of the parts: one line a picture, also where nothing is said of it, so that it is known to be done


def line(prediction: Prediction) -> str:
    """All that is said of a picture."""
    said = [[one.question, one.text, one.score] for one in prediction.said or ()]
    return json.dumps([prediction.id, said]) + "\n"


def ids(part: Path) -> set[str]:
    """The pictures that a part tells of."""
    return {id for id, _ in _rows(part)}


def write_table(parts: Sequence[Path], file: Path, head: Any) -> int:
    """Put the parts together as CSV: id, caption, score, or id, question, answer, score. Returns how many pictures they tell of.

    Raises:
        OSError: it cannot be written.
    """
    told = dict(row for part in parts for row in _rows(part))  # a picture may have been written twice
    asked = getattr(head, "column", "caption") == "answer"
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["id", "question", "answer", "score"] if asked else ["id", "caption", "score"])
    for id, said in told.items():
        table.writerows([id, *([question] if asked else []), words, f"{score:.6f}"] for question, words, score in said)
    storage.write_whole(file, lambda opened: opened.write(text.getvalue().encode()))
    return len(told)


def _rows(part: Path) -> list[tuple[str, list[tuple[str, str, float]]]]:
    return [(id, said) for id, said in map(json.loads, part.read_text(encoding="utf-8").splitlines())]
