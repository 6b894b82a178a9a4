"""Asking an index: by words, or by a picture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray
from torch import Tensor

from mae_vlm.index import structure
from mae_vlm.index.build import placed
from mae_vlm.index.model import WEIGHTS, Model, carried, of_run
from mae_vlm.index.stored import Place, Stored


class Hit(NamedTuple):
    """A picture that was found, and how near it is: 1 is the same, 0 unrelated."""

    path: Path
    score: float


class Searcher:
    """An index, open for questions.

    Args:
        folder: as ``python -m mae_vlm index`` has made it.
        weights: the run that made it, where it does not carry its model; else it is only checked to be the same.

    Raises:
        ValueError: no index there, unfinished or damaged; no model; or one of another run.
    """

    def __init__(self, folder: Path, weights: str | None = None) -> None:
        place = Place(folder)
        origin, stored = place.origin(), place.stored()
        if origin is None or stored is None:
            told = (
                "is not finished: call index again to go on" if origin is not None else "is not an index; python -m mae_vlm index makes one"
            )
            raise ValueError(f"{folder} {told}")
        self.origin, self.stored = origin, stored
        self._index, self._names = _opened(place, stored)
        self.model = self._model(place, weights)

    def _model(self, place: Place, weights: str | None) -> Model:
        if weights is None and not (place.model / WEIGHTS).is_file():
            raise ValueError(f"{place.folder} does not carry its model; give the run that made it: --weights {self.origin.run}")
        model = carried(place.model) if weights is None else of_run(weights)
        if (found := model.checksum()) != self.origin.checksum:
            where = place.model if weights is None else weights
            raise ValueError(f"{where} (checksum {found[:12]}) is not what made this index: that is {self.origin}; leave --weights out")
        return model

    def words(self, text: str, top: int = 10, exact: bool = False) -> list[Hit]:
        """The pictures nearest to a text.

        Raises:
            ValueError: the run knows no words.
        """
        if not self.model.reads:
            raise ValueError(f"this index was made by {self.origin}, which was trained without words; ask with --picture FILE")
        return self._hits(self.model.of_texts([text]), top, exact)

    def picture(self, file: Path, top: int = 10, exact: bool = False) -> list[Hit]:
        """The pictures nearest to one.

        Raises:
            ValueError: it cannot be read.
        """
        try:
            seen_CHW = self.model.seen(file if file.suffix.lower() in (".tif", ".tiff") else file.read_bytes(), str(file))
        except OSError as problem:
            raise ValueError(f"--picture {file}: {problem.strerror or problem}") from None
        return self._hits(self.model.of_images(seen_CHW[None]), top, exact)

    def _hits(self, asked_BE: Tensor, top: int, exact: bool) -> list[Hit]:
        if hasattr(self._index, "nprobe") and exact:
            self._index.nprobe = self._index.nlist
        asked: NDArray[np.float32] = placed(asked_BE.numpy(), self.stored.mean, self.stored.deviation)
        scores, numbers = self._index.search(asked, min(top, self.stored.pictures))
        pairs = zip(numbers[0].tolist(), scores[0].tolist(), strict=True)
        root = Path(self.stored.root)
        return [Hit(root / os.fsdecode(self._names[number].as_py()), score) for number, score in pairs if number >= 0]


def _opened(place: Place, stored: Stored) -> tuple[Any, Any]:
    """The structure of faiss and the names, checked to belong together."""
    faiss = structure.library()
    try:
        index = faiss.read_index(str(place.vectors(stored.version)))
        names = pyarrow.parquet.read_table(place.names(stored.version))["name"]
    except (RuntimeError, OSError, pa.ArrowInvalid) as problem:
        raise ValueError(
            f"{place.folder} is damaged ({' '.join(str(problem).split())[:200]}); call index again: what is computed is kept"
        ) from None
    if index.ntotal != len(names) or index.d != stored.width:
        raise ValueError(f"{place.folder} is damaged: {index.ntotal} vectors for {len(names)} names; delete index.json and index again")
    return index, names
