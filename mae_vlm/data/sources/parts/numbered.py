"""Picture files that are known by the number at the end of their name, as ``COCO_train2014_000000000009.jpg``."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mae_vlm.data.sources.parts.files import is_picture

_NUMBER = re.compile(r"(\d{1,18})\.\w+")


class Numbered(NamedTuple):
    """``ids_P`` (int64, rising) and, likewise, ``names_P`` (``large_string``): paths relative to the folder that was asked."""

    ids_P: NDArray[np.int64]
    names_P: Any

    def holds(self, id: int) -> bool:
        return bool(np.isin(id, self.ids_P))

    def paths(self, ids_N: NDArray[np.int64]) -> Any:
        """The path of each number; "picture 17" for a number that no file has."""
        at_N = np.minimum(np.searchsorted(self.ids_P, ids_N), max(len(self.ids_P) - 1, 0))
        there_N = self.ids_P[at_N] == ids_N if len(self.ids_P) else np.zeros(len(ids_N), np.bool_)
        nobody = pa.array([f"picture {id}" for id in ids_N[~there_N].tolist()], pa.large_string())
        found = self.names_P.take(pa.array(at_N[there_N]))
        order_N = np.empty(len(ids_N), np.int64)
        order_N[np.concatenate([np.flatnonzero(there_N), np.flatnonzero(~there_N)])] = np.arange(len(ids_N))
        return pa.concat_arrays([found, nobody]).take(pa.array(order_N))


def numbered(base: Path, folders: Sequence[str]) -> Numbered:
    """The pictures in ``folders`` (relative to ``base``, not below them); of two with one number, that of the earlier folder."""
    found: dict[int, str] = {}
    for folder in reversed(folders):
        if not (base / folder).is_dir():
            continue
        with os.scandir(base / folder) as listing:
            for name in sorted((entry.name for entry in listing if is_picture(entry.name)), reverse=True):
                number = _NUMBER.search(name)
                if number:
                    found[int(number[1])] = f"{folder}/{name}" if folder else name
    ids_P = np.fromiter(found, np.int64, len(found))
    order = np.argsort(ids_P)
    return Numbered(ids_P[order], pa.array(list(found.values()), pa.large_string()).take(pa.array(order)))
