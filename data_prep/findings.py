"""What was seen, as the numbers of the report: one dictionary that JSON and the page are written from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.duplicates import BLANK, Duplicates, describe_pair, describe_row
from data_prep.gathering import Gathered
from data_prep.look import caption_hash
from mae_vlm.data.problems import Problems
from mae_vlm.data.sources.base import Source

_LISTED = 10_000  # of each kind; all are counted
TINY, HUGE, LONG = 16, 25_000_000, 4.0  # pixels of the short side; pixels; long side by short side
_REPEATED = 20


def findings(seen: Gathered, copies: Duplicates, sources: list[Source], problems: Problems) -> dict[str, Any]:
    """The report; ``summary`` counts what a user should look at, the rest lists it."""
    odd = {name: np.flatnonzero(rows) for name, rows in _odd(seen.facts).items()}
    annotations = dict(problems.counts + seen.annotations.counts)
    summary = {
        "pictures": len(seen.facts) + len(seen.failures),
        "unreadable": len(seen.failures),
        **{f"duplicate_{name}": count for name, count in copies.counts().items()},
        **{name: len(rows) for name, rows in odd.items()},
        "bad_annotations": sum(annotations.values()),
    }
    return {
        "summary": summary,
        "parts": {name: _part(number, seen, source) for number, (name, source) in enumerate(zip(seen.parts, sources, strict=True))},
        "unreadable": [
            {"part": seen.parts[part], "index": i, "name": name, "reason": reason} for part, i, name, reason in seen.failures[:_LISTED]
        ],
        "duplicates": [describe_pair(copies, number, seen, sources) for number in range(min(len(copies.pairs), _LISTED))],
        **{name: [describe_row(int(row), seen, sources) for row in rows[:_LISTED]] for name, rows in odd.items()},
        "annotations": {
            "counts": annotations,
            "first": [vars(one) for one in (*problems.first[:_LISTED], *seen.annotations.first[:_LISTED])],
        },
    }


def _odd(facts: NDArray[np.void]) -> dict[str, NDArray[np.bool_]]:
    height, width = facts["height"].astype(np.int64), facts["width"].astype(np.int64)
    short, long = np.minimum(height, width), np.maximum(height, width)
    return {"blank": facts["spread"] < BLANK, "tiny": short < TINY, "huge": height * width > HUGE, "elongated": long > LONG * short}


def _part(number: int, seen: Gathered, source: Source) -> dict[str, Any]:
    facts = seen.facts[seen.facts["part"] == number]
    told: dict[str, Any] = {"pictures": len(source), "readable": len(facts)}
    if len(facts):
        told |= {"sizes": _sizes(facts), "kinds": _counts(facts["kind"])}
        told |= _moments(seen, number)
    if (facts["label"] >= 0).any():
        told["classes"] = _classes(facts["label"], source.classes)
    if (facts["objects"] >= 0).any():
        told["objects"] = {"pictures": int((facts["objects"] >= 0).sum()), "boxes": int(facts["objects"].clip(0).sum())}
    if len(seen.caption_words[number]):
        told["captions"] = _captions(facts, seen.caption_words[number], seen.caption_hashes[number], source)
    return told


def _sizes(facts: NDArray[np.void]) -> dict[str, Any]:
    short = np.minimum(facts["height"], facts["width"])
    edges = 2 ** np.arange(0, 16)
    histogram = np.bincount(np.searchsorted(edges, short, side="right") - 1, minlength=len(edges))
    columns = {name: _spread(facts[name]) for name in ("height", "width", "bytes")}
    return {**columns, "short_side": {f"{edge}-{2 * edge - 1}": int(n) for edge, n in zip(edges, histogram, strict=True) if n}}


def _spread(values: NDArray[Any]) -> dict[str, float]:
    return {
        "least": int(values.min()),
        "median": float(np.median(values)),
        "mean": round(float(values.mean()), 1),
        "most": int(values.max()),
    }


def _counts(values: NDArray[Any]) -> dict[str, int]:
    names, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {names[i].decode() if isinstance(names[i], bytes) else str(names[i]): int(counts[i]) for i in order}


def _moments(seen: Gathered, number: int) -> dict[str, Any]:
    try:
        mean, deviation = seen.moments[number].mean_and_deviation()
    except ValueError as error:  # pictures of several kinds
        return {"mean": None, "std": None, "no_mean": str(error)}
    return {"mean": [round(value, 5) for value in mean], "std": [round(value, 5) for value in deviation]}


def _classes(labels: NDArray[np.int32], names: list[str] | None) -> dict[str, Any]:
    known = labels[labels >= 0]
    counts = np.bincount(known, minlength=len(names or []))
    told = {(names[i] if names and i < len(names) else str(i)): int(n) for i, n in enumerate(counts) if n or names}
    return {"counts": told, "without_label": int((labels < 0).sum()), "least": min(told.values()), "most": max(told.values())}


def _captions(facts: NDArray[np.void], words: NDArray[np.int64], hashes: NDArray[np.uint64], source: Source) -> dict[str, Any]:
    values, first, counts = np.unique(hashes, return_index=True, return_counts=True)
    most = [i for i in np.argsort(-counts, kind="stable")[:_REPEATED] if counts[i] > 1]
    owners = np.repeat(facts["index"], facts["captions"])
    return {
        "captions": len(words),
        "pictures_without": int((facts["captions"] == 0).sum()),
        "per_picture": _spread(facts["captions"]),
        "words": _spread(words),
        "empty": int((words == 0).sum()),
        "distinct": len(values),
        "repeated": [{"times": int(counts[i]), "caption": _text(source, int(owners[first[i]]), int(values[i]))} for i in most],
    }


def _text(source: Source, index: int, wanted: int) -> str:
    return next((caption for caption in source[index].captions if caption_hash(caption) == wanted), "")
