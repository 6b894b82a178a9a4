"""The words of a collection, and the vocabulary learned from them, kept in the user's cache."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

from mae_vlm.data.index_cache import cache_root, write_whole
from mae_vlm.data.sources.base import Source
from mae_vlm.tokens.words import Vocabulary, learn

_FOLDER = "vocabularies"
MOST = 50_000  # pictures whose words a vocabulary is learned from
_BLOCKS = 16  # at least, of which they come


def texts(source: Source, most: int = MOST) -> list[str]:
    """Captions, questions and answers of ``most`` pictures at most, spread evenly over the source; no picture is read."""
    found: list[str] = []
    for index in _spread(source, most):
        try:
            sample = source.worded(index)
        except (ValueError, OSError):  # broken ones are told of by the run itself
            continue
        found += sample.captions
        found += [words for question in sample.questions for words in (question.text, *question.answers, *question.choices)]
    return found


def _spread(source: Source, most: int) -> Iterator[int]:
    """Where reading in any order is slow, ``most`` come from some of its blocks: a few of each would be all of the collection to read."""
    ends = source.block_ends
    if ends is None or len(source) <= most:
        yield from range(0, len(source), max(1, -(-len(source) // most)))
        return
    count = min(len(ends), max(_BLOCKS, most * len(ends) // len(source)))
    for block in (number * len(ends) // count for number in range(count)):
        start = int(ends[block - 1]) if block else 0
        yield from range(start, min(int(ends[block]), start + max(1, most // count)))


def learned(source: Source, size: int = 8192, kind: str = "wordpiece", lowercase: bool = True) -> Vocabulary:
    """The vocabulary of a collection's words.

    Raises:
        ValueError: it has none; or see :func:`mae_vlm.tokens.words.learn`.
    """
    words = texts(source)
    if not words:
        raise ValueError("no captions to learn a vocabulary from; name data.caption_column or data.annotations, or set model.text to null")
    return learn(words, size, kind, lowercase)


def kept(vocabulary: str) -> Path:
    """A file of the user's cache that holds this vocabulary (a tokenizer.json's text): one for each, whoever asks.

    Raises:
        ValueError: it cannot be written there.
    """
    file = kept_as(f"{blake2b(vocabulary.encode(), digest_size=16).hexdigest()}.json")
    if not file.is_file() and not write_whole(file, vocabulary.encode()):
        raise ValueError(f"the vocabulary cannot be kept in {file.parent}; set MAE_VLM_CACHE to a folder that can be written to")
    return file


def kept_as(name: str) -> Path:
    """Where this machine keeps a vocabulary of that name, which is made from what it holds; whether it is there or not."""
    return cache_root() / _FOLDER / name


def is_kept(place: str) -> bool:
    """Whether a path is one that :func:`kept` gives."""
    return Path(place).parent.name == _FOLDER
