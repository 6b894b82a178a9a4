"""CIDEr-D: how much a caption is like what people wrote of the same picture, rare phrases counting most.

Vedantam et al. 2015, arXiv 1411.5726, section 4 and its "D" of section 6: clipped counts, and a penalty for another length.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

_PHRASES = 4  # words of the longest
_SIGMA = 6.0  # words by which a length may differ
Words = Sequence[str]
Phrase = tuple[str, ...]


def cider_d(said: Sequence[Words], written: Sequence[Sequence[Words]]) -> list[float]:
    """For each picture the likeness, 0 to 10, of the words ``said`` to those ``written`` of it, averaged over the latter.

    A phrase's weight is the logarithm of the number of pictures over that of pictures of which somebody wrote it: with a single picture
    all weigh nothing, and a few tell little.
    """
    counts = [[_phrases(one) for one in some] for some in written]
    pictures: Counter[Phrase] = Counter()
    for some in counts:
        pictures.update(set[Phrase]().union(*some))
    weights = {phrase: math.log(len(written)) - math.log(times) for phrase, times in pictures.items()}
    unseen = math.log(max(1, len(written)))
    return [_likeness(_phrases(one), some, weights, unseen) for one, some in zip(said, counts, strict=True)]


def _phrases(words: Words) -> Counter[Phrase]:
    """How often each phrase of one to four words occurs."""
    return Counter(tuple(words[at : at + size]) for size in range(1, _PHRASES + 1) for at in range(len(words) - size + 1))


def _likeness(said: Counter[Phrase], written: Sequence[Counter[Phrase]], weights: dict[Phrase, float], unseen: float) -> float:
    own = {phrase: times * weights.get(phrase, unseen) for phrase, times in said.items()}
    total = 0.0
    for one in written:
        theirs = {phrase: times * weights[phrase] for phrase, times in one.items()}
        apart = _length(said) - _length(one)
        total += math.exp(-(apart**2) / (2 * _SIGMA**2)) * sum(_cosine(own, theirs, size) for size in range(1, _PHRASES + 1)) / _PHRASES
    return 10 * total / len(written) if written else 0.0


def _cosine(own: dict[Phrase, float], theirs: dict[Phrase, float], size: int) -> float:
    """Of the phrases of ``size`` words; what is said oftener than written counts as often as written."""
    common = sum(min(value, theirs[phrase]) * theirs[phrase] for phrase, value in own.items() if len(phrase) == size and phrase in theirs)
    norms = [math.sqrt(sum(value**2 for phrase, value in side.items() if len(phrase) == size)) for side in (own, theirs)]
    return common / (norms[0] * norms[1]) if all(norms) else 0.0


def _length(counts: Counter[Phrase]) -> int:
    return sum(times for phrase, times in counts.items() if len(phrase) == 1)
