"""A column that tells each row's part of a collection: train, val or test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from mae_vlm.data.sources.base import Part, Source
from mae_vlm.data.sources.parts.split_names import SPLIT_NAMES

PARTS = ("train", "val", "test")
WORDS = {**SPLIT_NAMES, "restval": "train"}  # COCO's validation pictures that Karpathy's split trains on


def split_codes(words: Any) -> NDArray[np.int32]:
    """0 train, 1 val, 2 test, -1 another word or none, for each entry of an Arrow array of strings."""
    encoded = pc.dictionary_encode(pc.fill_null(words, ""))
    parts = [WORDS.get(word.strip().lower(), "") for word in encoded.dictionary.to_pylist()]
    codes = np.array([PARTS.index(part) if part else -1 for part in parts], np.int32)
    found: NDArray[np.int32] = codes[encoded.indices.to_numpy()]
    return found


def by_part(source: Source, codes: NDArray[np.int32], where: object) -> dict[str, Source]:
    """The parts of a source by the code of each of its samples.

    Raises:
        ValueError: nothing is for training.
    """
    if not (codes == 0).any():
        raise ValueError(f"{where} has no picture of the part train; correct its column of splits, or name another by data.split_column")
    return {name: Part(source, np.flatnonzero(codes == code).astype(np.int64)) for code, name in enumerate(PARTS) if (codes == code).any()}
