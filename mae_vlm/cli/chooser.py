"""One config whose open keys are filled, and the record of what was filled with what, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mae_vlm.cli.machine import Machine
from mae_vlm.data.summary import Summary


@dataclass(frozen=True)
class Choice:
    """One automatic value: the dotted key in the config, the value, and why."""

    key: str
    value: Any
    reason: str


class Chooser:
    """Fills the open keys of one config, in order, later choices seeing earlier ones."""

    def __init__(self, config: dict[str, Any], summary: Summary, machine: Machine) -> None:
        self.config, self.summary, self.machine = config, summary, machine
        self.choices: list[Choice] = []

    def get(self, key: str) -> Any:
        """The value at a dotted key, None where a step is missing."""
        place: Any = self.config
        for step in key.split("."):
            place = place.get(step) if isinstance(place, dict) else None
        return place

    def fill(self, key: str, choose: Callable[[], tuple[Any, str]], unset: tuple[Any, ...] = (None,)) -> None:
        """Set ``key`` if it is open and its section exists."""
        section, _, name = key.rpartition(".")
        place = self.get(section) if section else self.config
        if not isinstance(place, dict) or place.get(name) not in unset:
            return
        value, reason = choose()
        place[name] = value
        self.choices.append(Choice(key, value, reason))
