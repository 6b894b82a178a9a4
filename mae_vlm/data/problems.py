"""What is wrong with a collection's annotations: counted by kind, told with file and id, dropped or fatal as the user says."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

RULES = ("drop", "fail")
_KEPT = 10_000  # problems told one by one; all are counted
_SHOWN = 5


@dataclass(frozen=True)
class Problem:
    """One annotation that cannot be used: its ``kind`` in words that can be counted, the file it stands in, its id there, and the facts."""

    kind: str
    file: str
    id: str
    text: str


class Problems:
    """The problems found while one collection was opened.

    Sources ``add`` each and leave the annotation out; whoever opens the collection calls ``settle`` once all is read.

    Args:
        rule: "drop" leaves bad annotations out, "fail" makes them fatal.
    """

    def __init__(self, rule: str = "drop") -> None:
        assert rule in RULES, rule
        self.rule = rule
        self.counts: Counter[str] = Counter()
        self.first: list[Problem] = []

    def add(self, kind: str, file: str | Path, id: object, text: str) -> None:
        """Count one problem, as ``add("box of zero size", "instances.json", 17, "left 5, right 5")``."""
        self.counts[kind] += 1
        if len(self.first) < _KEPT:
            self.first.append(Problem(kind, str(file), str(id), text))

    def __len__(self) -> int:
        return sum(self.counts.values())

    def describe(self) -> str:
        """One line: how many of each kind, the commonest first."""
        return ", ".join(f"{kind}: {count:,}" for kind, count in self.counts.most_common())

    def settle(self) -> None:
        """Nothing where all may be dropped.

        Raises:
            ValueError: the rule is "fail" and there are problems; the message counts them and shows the first.
        """
        if self.rule == "fail" and self.counts:
            shown = "; ".join(f"{one.file}, {one.id}: {one.kind} ({one.text})" for one in self.first[:_SHOWN])
            raise ValueError(f"{len(self)} bad annotations ({self.describe()}): {shown}; correct them, or set data.bad_annotations drop")

    def write(self, path: Path) -> None:
        """One JSON line per problem told, and a last one with the counts."""
        lines = [json.dumps(asdict(problem)) for problem in self.first] + [json.dumps({"counts": dict(self.counts)})]
        path.write_text("\n".join(lines) + "\n")
