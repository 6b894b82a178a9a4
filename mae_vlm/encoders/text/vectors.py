"""Files of word vectors: word2vec's, binary and as text, and GloVe's.

Letters: V tokens of a vocabulary, E numbers of a word.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mae_vlm.tokens.words import Vocabulary, of_words, one_word

_LONGEST = 1000  # bytes of a word: what is longer is no word, but a file of another kind
_WIDEST = 100_000  # numbers of a word
_PACKED = {b"\x1f\x8b": "gunzip", b"PK": "unzip", b"BZ": "bunzip2", b"\xfd7": "unxz"}  # the first two bytes, and what undoes it


class VectorFile:
    """Words and their vectors, one after the other: a file of any size takes no memory.

    Args:
        place: word2vec's binary form, ending in .bin; anything else is text, a word and its numbers on each line: word2vec's, whose first
            line tells how many there are (fastText's .vec too), or GloVe's, without it.

    Attributes:
        width: numbers of a word (E).

    Raises:
        ValueError: no such file, packed, or not of either form; while it is read, cut off or damaged, with the place.
    """

    def __init__(self, place: str | Path) -> None:
        self.path = Path(place)
        if not self.path.is_file():
            raise ValueError(
                f"vectors {place}: no such file; a run that goes on has them among its weights: leave model.text.vectors out there"
            )
        with self.path.open("rb") as file:
            first = file.readline(_LONGEST * 100)
        if undo := _PACKED.get(first[:2]):
            raise ValueError(f"vectors {place} is packed; {undo} it first")
        self.binary = self.path.suffix == ".bin"
        told = re.fullmatch(rb"(\d+) +(\d+)\s*\n", first)
        self.count = int(told[1]) if told else None
        self.width = int(told[2]) if told else len(first.split()) - 1
        self._begin = len(first) if told else 0
        if (self.binary and told is None) or not 0 < self.width <= _WIDEST or self.count == 0:
            form = "the counts of words and numbers" if self.binary else "a word and its numbers"
            raise ValueError(f"vectors {place}: the first line is not {form}; word2vec's .bin, its text and GloVe's .txt are read")

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        """Each word and its numbers as they are written, see :meth:`numbers`."""
        found = 0
        for word, numbers in self._bits() if self.binary else self._lines():
            yield word.decode("utf-8", "replace"), numbers
            found += 1
        if self.count is not None and found != self.count:
            raise ValueError(f"vectors {self.path} holds {found:,} words, its first line says {self.count:,}: it is cut off or damaged")

    def numbers(self, written: bytes, word: str) -> Tensor:
        """Float32 ``[E]`` of what iteration gave.

        Raises:
            ValueError: they are none, or not finite.
        """
        try:
            values = np.frombuffer(written, "<f4") if self.binary else np.array(written.split(), np.float32)
        except ValueError:
            raise ValueError(f"vectors {self.path}: what follows the word {word!r} are not {self.width} numbers") from None
        if len(values) != self.width or not np.isfinite(values).all():
            raise ValueError(f"vectors {self.path}: what follows the word {word!r} are not {self.width} finite numbers")
        return torch.from_numpy(values.copy())

    def _bits(self) -> Iterator[tuple[bytes, bytes]]:
        size = 4 * self.width
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as bits:
            place, end, number = self._begin, len(bits), 0
            while place < end and not (end - place == 1 and bits[place:end] == b"\n"):
                space = bits.find(b" ", place, place + _LONGEST)
                number += 1
                if space < 0 or space + 1 + size > end:
                    raise ValueError(f"vectors {self.path}: word {number:,} of {self.count:,} is cut off or damaged")
                yield bits[place:space].lstrip(b"\n"), bits[space + 1 : space + 1 + size]  # Google's tool ends each by a newline
                place = space + 1 + size

    def _lines(self) -> Iterator[tuple[bytes, bytes]]:
        with self.path.open("rb") as file:
            file.seek(self._begin)
            for number, line in enumerate(file, 1 + bool(self._begin)):
                line = line.strip()
                spaces = line.count(b" ")
                if spaces < self.width:
                    raise ValueError(f"vectors {self.path}: line {number:,} does not hold a word and {self.width} numbers; is it cut off?")
                parts = line.split(b" ", 1 + spaces - self.width)  # some of GloVe's words hold spaces
                yield b" ".join(parts[:-1]), parts[-1]


def words_of(file: VectorFile, most: int) -> Vocabulary:
    """The first ``most`` words of a file, its commonest, as a vocabulary in small letters; what is several words is left out."""
    found: dict[str, None] = {}
    for word, _ in file:
        if (clean := one_word(word)) is not None:
            found[clean] = None
        if len(found) == most:
            break
    return of_words(list(found))


def known(file: VectorFile, vocabulary: Vocabulary) -> dict[int, Tensor]:
    """The vectors of the words of a vocabulary, by their numbers; of others none is kept.

    A word that the file writes otherwise (capitals, accents) has the first of those, unless it is there as it is.

    Raises:
        ValueError: none is there, or see :class:`VectorFile`.
    """
    numbers = vocabulary.tokenizer.get_vocab()
    clean = (lambda word: word) if vocabulary.tokenizer.normalizer is None else vocabulary.tokenizer.normalizer.normalize_str
    found: dict[int, Tensor] = {}
    for word, written in file:
        number = numbers.get(word)
        if number is None and ((number := numbers.get(clean(word))) is None or number in found):
            continue
        found[number] = file.numbers(written, word)
    if not found:
        raise ValueError(f"vectors {file.path} hold none of the {len(numbers):,} words of the vocabulary; are they of another language?")
    return found
