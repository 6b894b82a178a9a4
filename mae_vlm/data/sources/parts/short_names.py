"""What the samples of several files are named after: the files' own names, or more of their paths where two have the same."""

from __future__ import annotations

import os
from collections.abc import Sequence


def short_names(paths: Sequence[str]) -> list[str]:
    """The last part of each path where all differ, else the paths below the folder that they share."""
    ends = [path.rpartition("/")[2] for path in paths]
    if len(set(ends)) == len(ends):
        return ends
    shared = os.path.commonpath([path.rpartition("/")[0] for path in paths])
    return [path.removeprefix(shared).lstrip("/") for path in paths]
