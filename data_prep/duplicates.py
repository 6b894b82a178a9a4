"""Which pictures of a collection come twice: as the same bytes, or looking the same; across parts and under other labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.alike import find_pairs
from data_prep.gathering import Gathered
from mae_vlm.data.sources.base import Source

BLANK = 2 / 255  # pictures whose every channel deviates less are of one colour: they all look the same, and are told apart


@dataclass(frozen=True)
class Duplicates:
    """Pairs of rows of ``Gathered.facts``, the worst first: leaks, then other labels, then the surest.

    int64 ``pairs`` [P, 2]; float32 ``likeness``, bool ``same_bytes``, ``mirrored``, ``leak`` (in two parts) and ``other_label`` [P];
    ``groups`` of pictures that belong together, holding ``members``; ``crowded`` as ``near_pairs`` tells it.
    """

    pairs: NDArray[np.int64]
    likeness: NDArray[np.float32]
    same_bytes: NDArray[np.bool_]
    mirrored: NDArray[np.bool_]
    leak: NDArray[np.bool_]
    other_label: NDArray[np.bool_]
    groups: int
    members: int
    crowded: int

    def counts(self) -> dict[str, int]:
        """The figures of the report."""
        return {
            "pairs": len(self.pairs),
            "same_bytes": int(self.same_bytes.sum()),
            "leaks": int(self.leak.sum()),
            "other_label": int(self.other_label.sum()),
            "mirrored": int(self.mirrored.sum()),
            "pictures": self.members,
            "groups": self.groups,
            "crowded": self.crowded,
        }


def find_duplicates(seen: Gathered, mirrored: bool = False) -> Duplicates:
    """Every pair of copies. Of pictures with the same bytes each is paired with the first, which stands for all of them elsewhere."""
    facts = seen.facts
    _, first, number = np.unique(facts["digest"], return_index=True, return_inverse=True)
    again = np.flatnonzero(first[number] != np.arange(len(facts)))
    same = np.stack([first[number[again]], again], axis=1).astype(np.int64)
    once = np.sort(first[facts["spread"][first] >= BLANK])
    short = np.minimum(facts["height"], facts["width"])[once]
    near = find_pairs(seen.thumbs[once], facts["colours"][once], short, mirrored)
    pairs = np.concatenate([same, once[near.pairs]])
    likeness = np.concatenate([np.ones(len(same), np.float32), near.likeness])
    flipped = np.concatenate([np.zeros(len(same), np.bool_), near.mirrored])
    leak = facts["part"][pairs[:, 0]] != facts["part"][pairs[:, 1]]
    labels = facts["label"][pairs]
    other = (labels.min(axis=1) >= 0) & (labels[:, 0] != labels[:, 1])
    order = np.lexsort((-likeness, ~other, ~leak))
    members, groups = _groups(pairs)
    bytewise = np.arange(len(pairs)) < len(same)
    return Duplicates(
        pairs[order],
        likeness[order],
        bytewise[order],
        flipped[order],
        leak[order],
        other[order],
        groups,
        members,
        near.crowded,
    )


def describe_pair(found: Duplicates, number: int, seen: Gathered, sources: list[Source]) -> dict[str, Any]:
    """One pair as the report lists it."""
    one, other = (describe_row(int(row), seen, sources) for row in found.pairs[number])
    flags = ("same_bytes", "mirrored", "leak", "other_label")
    told = {flag: bool(getattr(found, flag)[number]) for flag in flags}
    return {"a": one, "b": other, "likeness": round(float(found.likeness[number]), 3), **told}


def describe_row(row: int, seen: Gathered, sources: list[Source]) -> dict[str, Any]:
    """Where one picture is, and its label and size."""
    fact = seen.facts[row]
    part, index, label = int(fact["part"]), int(fact["index"]), int(fact["label"])
    told: dict[str, Any] = {"part": seen.parts[part], "index": index, "name": sources[part].name(index)}
    if label >= 0:
        classes = sources[part].classes
        told["label"] = classes[label] if classes and label < len(classes) else label
    return {**told, "width": int(fact["width"]), "height": int(fact["height"])}


def _groups(pairs: NDArray[np.int64]) -> tuple[int, int]:
    """(pictures in any pair, connected groups of them)."""
    rows, ends = np.unique(pairs, return_inverse=True)
    heads = list(range(len(rows)))

    def head(row: int) -> int:
        while heads[row] != row:
            heads[row] = heads[heads[row]]
            row = heads[row]
        return row

    for one, other in ends.reshape(-1, 2).tolist():
        heads[head(one)] = head(other)
    return len(rows), sum(head(row) == row for row in range(len(rows)))
