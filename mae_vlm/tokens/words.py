"""Texts as numbers, and the vocabulary that makes them so.

Letters: B texts, T tokens of the longest text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

PAD, UNKNOWN, BEGIN, END, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
# how other vocabularies call the same: BERT's first, then RoBERTa's, GPT's and CLIP's
_CALLED = {
    "pad": (PAD, "<pad>", "<|pad|>"),
    "begin": (BEGIN, "<s>", "<|startoftext|>", "<|endoftext|>"),
    "end": (END, "</s>", "<|endoftext|>"),
    "unknown": (UNKNOWN, "<unk>"),
    "mask": (MASK, "<mask>"),
}
KINDS = ("wordpiece", "bpe", "words")
_ROUND = 8  # texts are padded to a multiple of it: a GPU sees few different shapes


@dataclass(frozen=True)
class Words:
    """A batch of texts: begin, tokens, end, then padding.

    Attributes:
        ids_BT: int64 numbers in the vocabulary.
        real_BT: False where there is only padding.
        word_BT: int64, which word of its text a token is a part of, from 0; -1 for begin, end and padding.
        has_B: False where a picture has no text; its row holds begin and end alone and must count zero.
    """

    ids_BT: Tensor
    real_BT: Tensor
    word_BT: Tensor
    has_B: Tensor

    def __len__(self) -> int:
        return len(self.ids_BT)

    def to(self, device: torch.device | str) -> Words:
        return Words(*(getattr(self, one.name).to(device, non_blocking=True) for one in fields(self)))

    def rows(self, index_R: Tensor) -> Words:
        """The texts of these rows."""
        return Words(*(getattr(self, one.name)[index_R] for one in fields(self)))

    def padded(self, length: int, pad: int) -> Words:
        """The same texts with padding up to ``length`` tokens, as where processes exchange them; longer ones are cut."""
        more = length - self.ids_BT.shape[1]
        fill = {"ids_BT": pad, "real_BT": False, "word_BT": -1}
        grown = {name: torch.nn.functional.pad(getattr(self, name), (0, more), value=value) for name, value in fill.items()}
        return replace(self, **grown)


class Vocabulary:
    """A tokenizer of the ``tokenizers`` library with the numbers of its special tokens.

    Args:
        tokenizer: whose own additions (begin, end, padding, truncation) are not used: every text becomes begin, tokens, end here.

    Raises:
        ValueError: it has no token for the begin, the end or padding that is known.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True  # a caption that holds the letters of one is a caption
        self.tokenizer = tokenizer
        found = {
            name: next((number for one in called if (number := tokenizer.token_to_id(one)) is not None), None)
            for name, called in _CALLED.items()
        }
        if found["begin"] is None or found["end"] is None:
            raise ValueError(f"the vocabulary has no token for the begin and end of a text; known are {BEGIN}, {END} and their like")
        self.begin: int = found["begin"]
        self.end: int = found["end"]
        self.pad: int = self.end if found["pad"] is None else found["pad"]
        self.mask: int | None = found["mask"]
        self.special = sorted({number for number in found.values() if number is not None})

    def __len__(self) -> int:
        return int(self.tokenizer.get_vocab_size())

    def __getstate__(self) -> str:
        return self.json

    def __setstate__(self, state: str) -> None:
        self.__init__(Tokenizer.from_str(state))  # type: ignore[misc]

    @property
    def json(self) -> str:
        """All of it, as a tokenizer.json holds it."""
        return str(self.tokenizer.to_str())

    def encode(self, texts: Sequence[str | None], length: int) -> Words:
        """Texts of at most ``length`` tokens, begin and end included; what is longer is cut. None stands for no text."""
        found = self.tokenizer.encode_batch([text or "" for text in texts], add_special_tokens=False)
        cut = [(one.ids[: length - 2], one.word_ids[: length - 2]) for one in found]
        longest = max((len(ids) for ids, _ in cut), default=0) + 2
        across = min(length, -(-longest // _ROUND) * _ROUND)
        ids_BT = torch.full((len(texts), across), self.pad, dtype=torch.int64)
        word_BT = torch.full((len(texts), across), -1, dtype=torch.int64)
        real_BT = torch.zeros(len(texts), across, dtype=torch.bool)
        for row, (ids, words) in enumerate(cut):
            ids_BT[row, : len(ids) + 2] = torch.tensor([self.begin, *ids, self.end])
            word_BT[row, 1 : len(ids) + 1] = torch.tensor([-1 if word is None else word for word in words], dtype=torch.int64)
            real_BT[row, : len(ids) + 2] = True
        return Words(ids_BT, real_BT, word_BT, torch.tensor([bool(text) for text in texts]))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some numbers; special tokens are left out."""
        return str(self.tokenizer.decode([one for one in ids if one not in self.special], skip_special_tokens=True)).strip()


def read(place: str | Path) -> Vocabulary:
    """The vocabulary in a tokenizer.json, a vocab.txt (BERT's), or a folder that holds one, as transformers writes it.

    Raises:
        ValueError: there is none.
    """
    path = Path(place)
    for file in (path, path / "tokenizer.json", path / "vocab.txt"):
        if file.is_file():
            return _wordpiece(file) if file.suffix == ".txt" else Vocabulary(_parsed(file))
    raise ValueError(f"vocabulary {place}: no tokenizer.json or vocab.txt there; python -m mae_vlm vocabulary --data.path DATA learns one")


def _parsed(file: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(file))
    except Exception as problem:  # the library knows no other
        raise ValueError(f"vocabulary {file} is no tokenizer.json: {' '.join(str(problem).split())}") from None


def _wordpiece(file: Path) -> Vocabulary:
    numbers = {line: number for number, line in enumerate(file.read_text(encoding="utf-8").splitlines())}
    if UNKNOWN not in numbers:
        raise ValueError(f"vocabulary {file} lists {len(numbers)} tokens and no {UNKNOWN} among them; give BERT's vocab.txt")
    cased = any(one != one.lower() for one in numbers if not one.startswith("["))
    return Vocabulary(_dressed(models.WordPiece(vocab=numbers, unk_token=UNKNOWN), lowercase=not cased))


def _dressed(model: Any, lowercase: bool) -> Tokenizer:
    """BERT's way before and after a model of pieces: accents and case, spaces, punctuation, Chinese letter by letter."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


_PLAIN = _dressed(models.WordLevel(vocab={UNKNOWN: 0}, unk_token=UNKNOWN), lowercase=True)


def learn(texts: Iterable[str], size: int = 8192, kind: str = "wordpiece", lowercase: bool = True) -> Vocabulary:
    """A vocabulary of at most ``size`` tokens from texts: BERT's WordPiece, byte-pair encoding on bytes, or whole words.

    Bytes know every letter; of words the commonest are known, and all others are one, the unknown.

    Raises:
        ValueError: an unknown ``kind``, or a size that cannot hold the special tokens and single letters.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} given, allowed are {', '.join(KINDS)}")
    least = 300 if kind == "bpe" else 50
    if size < least:
        raise ValueError(f"a vocabulary of {size} tokens given, allowed are {least} or more")
    if kind == "words":
        return _learn_words(texts, size, lowercase)
    return _learn_pieces(list(texts), size, lowercase) if kind == "wordpiece" else _learn_bytes(texts, size, lowercase)


_SPECIAL = [PAD, UNKNOWN, BEGIN, END, MASK]


def of_words(words: Iterable[str], lowercase: bool = True) -> Vocabulary:
    """The vocabulary of these words, whole, each in its turn, behind the special tokens."""
    numbers = {one: number for number, one in enumerate(dict.fromkeys([*_SPECIAL, *words]))}
    tokenizer = _dressed(models.WordLevel(vocab=numbers, unk_token=UNKNOWN), lowercase)
    tokenizer.add_special_tokens(_SPECIAL)
    return Vocabulary(tokenizer)


def one_word(text: str) -> str | None:
    """The word as a text's is looked up in small letters; None where a text would never hold it as one, such as "don't" or "new york"."""
    parts = _PLAIN.pre_tokenizer.pre_tokenize_str(_PLAIN.normalizer.normalize_str(text))
    return str(parts[0][0]) if len(parts) == 1 else None


def _learn_words(texts: Iterable[str], size: int, lowercase: bool) -> Vocabulary:
    tokenizer = _dressed(models.WordLevel(vocab={UNKNOWN: 0}, unk_token=UNKNOWN), lowercase)
    clean, cut = tokenizer.normalizer.normalize_str, tokenizer.pre_tokenizer.pre_tokenize_str
    seen = Counter(word for text in texts for word, _ in cut(clean(text)))
    return of_words(sorted(seen, key=lambda word: (-seen[word], word))[: size - len(_SPECIAL)], lowercase)


def _learn_pieces(texts: list[str], size: int, lowercase: bool) -> Vocabulary:
    tokenizer = _dressed(models.WordPiece(unk_token=UNKNOWN), lowercase)
    clean = tokenizer.normalizer.normalize_str
    inner = sorted({f"##{letter}" for text in texts for letter in clean(text) if not letter.isspace()})
    # the library numbers letters within words as it meets them, in another order in every process, and breaks ties by these numbers
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=_SPECIAL + inner, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    pieces = sorted(set(tokenizer.get_vocab()) - set(_SPECIAL))
    numbers = {one: number for number, one in enumerate(_SPECIAL + pieces)}
    learned = _dressed(models.WordPiece(vocab=numbers, unk_token=UNKNOWN), lowercase)
    learned.add_special_tokens(_SPECIAL)
    return Vocabulary(learned)


def _learn_bytes(texts: Iterable[str], size: int, lowercase: bool) -> Vocabulary:
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase() if lowercase else None
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=_SPECIAL, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return Vocabulary(tokenizer)
