"""Which of a batch's questions a part answers."""

from __future__ import annotations

from collections.abc import Callable

from mae_vlm.tokens.chance import uniform
from mae_vlm.types import Batch, Question

_WHICH = 61  # the stream of chance that chooses among a picture's questions


def asked(batch: Batch, fits: Callable[[Question], bool], most: int | None = None) -> list[list[Question]]:
    """For each picture, none for padding, its questions that ``fit``; ``most`` of them at most, drawn by the picture's key."""
    every = batch.questions or [()] * len(batch)
    real = batch.real_B.tolist()
    found = [[one for one in some if keep and one.text and fits(one)] for some, keep in zip(every, real, strict=True)]
    if most is None or max(map(len, found), default=0) <= most:
        return found
    chance_BQ = uniform(batch.keys_B.cpu(), max(map(len, found)), _WHICH)
    order = [chance_Q[: len(some)].argsort()[:most].tolist() for chance_Q, some in zip(chance_BQ, found, strict=True)]
    return [[some[place] for place in sorted(places)] for some, places in zip(found, order, strict=True)]
