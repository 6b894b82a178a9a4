"""A GRU or LSTM over word vectors as a text tower: the light choice.

Letters: B texts, T tokens, E numbers of a word, D width.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mae_vlm.encoders.text.base import EncodedText, TextTower
from mae_vlm.encoders.text.vectors import VectorFile, known, words_of
from mae_vlm.tokens.words import Vocabulary, Words, read

KINDS = {"gru": nn.GRU, "lstm": nn.LSTM}
_GATES = {"gru": 3, "lstm": 4}


class Recurrent(TextTower):
    """Word vectors through recurrent layers, one way or both ways.

    Args:
        vocabulary: a tokenizer.json, as ``python -m mae_vlm vocabulary --kind words`` writes it. The CLI learns one of words from the
            captions of the training pictures where it is left open; a program that leaves it open, and whoever names the file of
            ``vectors`` here too, has the words of that file.
        vectors: a file of word2vec or GloVe (:class:`mae_vlm.encoders.text.vectors.VectorFile`) that the words' vectors begin as, those
            of words that it lacks at random. They are trained, and a checkpoint holds them: the file is needed but once.
        kind: gru or lstm.
        width: numbers of a token (D), half of them for each way where there are two.
        depth: layers.
        bidirectional: both ways; captions are made by towers that read onwards alone.
        embedding: numbers of a word (E); None takes those of ``vectors``, else the width.
        length: tokens of a text at most, begin and end included.
        dropout: of the words' vectors and of what each layer gives.
        most: words of ``vectors`` that make up a vocabulary.

    Raises:
        ValueError: neither vocabulary nor vectors, a file of vectors that cannot be read, an unknown kind, or sizes that don't fit.
    """

    learns: ClassVar[str] = "words"

    def __init__(
        self,
        vocabulary: str | None = None,
        vectors: str | None = None,
        kind: str = "gru",
        width: int = 256,
        depth: int = 1,
        bidirectional: bool = True,
        embedding: int | None = None,
        length: int = 32,
        dropout: float = 0.0,
        most: int = 50_000,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r} given, allowed are {' and '.join(KINDS)}")
        ways = 2 if bidirectional else 1
        if depth < 1 or width < ways or width % ways or (embedding is not None and embedding < 1) or most < 1:
            raise ValueError(
                f"depth {depth}, width {width}, embedding {embedding}, most {most} given: all must be positive, and a width both ways even"
            )
        if length < 3:
            raise ValueError(f"length {length} given: a text needs at least 3 tokens, of which two are its begin and end")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout {dropout} given, allowed is a share from 0 to below 1")
        self.kind, self.width, self.length, self.bidirectional = kind, width, length, bidirectional
        file = None if vectors is None else VectorFile(vectors)
        self.vocabulary = _vocabulary(vocabulary, file, most)
        inside = _inside(embedding, file, width)
        self.table = nn.Embedding(len(self.vocabulary), inside)
        nn.init.normal_(self.table.weight, std=inside**-0.5)
        if file is not None:
            self._begin_as(file)
        self.layers = nn.ModuleList(_Layer(kind, width if number else inside, width, bidirectional) for number in range(depth))
        self.drop = nn.Dropout(dropout)

    @property
    def word_table(self) -> nn.Embedding:
        return self.table

    def forward(self, words: Words, causal: bool = False) -> EncodedText:
        if causal and self.bidirectional:
            raise ValueError("a text tower that reads both ways cannot read causally; set model.text.bidirectional to false")
        turned_BT = _turned(words.real_BT)
        tokens_BTD: Tensor = self.drop(self.table(words.ids_BT))
        for layer in self.layers:
            tokens_BTD = self.drop(layer(tokens_BTD, turned_BT))
        return EncodedText(tokens_BTD * words.real_BT[..., None], words)

    def flops(self) -> int:
        weights = sum(value.numel() for name, value in self.layers.named_parameters() if "weight" in name)
        return 2 * self.length * weights

    def stated(self) -> dict[str, Any]:
        return super().stated() | {"vectors": None, "embedding": self.table.embedding_dim}

    @torch.no_grad()
    def _begin_as(self, file: VectorFile) -> None:
        found = known(file, self.vocabulary)
        rows_KE = torch.stack(list(found.values()))
        nn.init.normal_(self.table.weight, std=float(rows_KE.std(correction=0)))  # the others of the same size
        self.table.weight[list(found)] = rows_KE
        words = len(self.vocabulary) - len(self.vocabulary.special)
        if 2 * len(found) < words:
            warnings.warn(
                f"vectors {file.path} hold {len(found):,} of the vocabulary's {words:,} words; the others begin at random",
                RuntimeWarning,
                stacklevel=2,
            )


class _Layer(nn.Module):
    """One layer ``[B, T, E] -> [B, T, D]``; what it does to real tokens does not depend on the padding behind them.

    Without packed sequences, whose lengths the host would have to wait for: backwards it reads texts that were turned round in their place.
    """

    def __init__(self, kind: str, inside: int, width: int, bidirectional: bool) -> None:
        super().__init__()
        part = width // 2 if bidirectional else width
        self.onwards = KINDS[kind](inside, part, batch_first=True)
        self.backwards = KINDS[kind](inside, part, batch_first=True) if bidirectional else None

    def forward(self, tokens_BTE: Tensor, turned_BT: Tensor) -> Tensor:
        onwards_BTD: Tensor = self.onwards(tokens_BTE)[0]
        if self.backwards is None:
            return onwards_BTD
        backwards_BTD: Tensor = self.backwards(_taken(tokens_BTE, turned_BT))[0]
        return torch.cat([onwards_BTD, _taken(backwards_BTD, turned_BT)], dim=-1)


def _taken(tokens_BTD: Tensor, index_BT: Tensor) -> Tensor:
    return tokens_BTD.gather(1, index_BT[..., None].expand(-1, -1, tokens_BTD.shape[-1]))


def _turned(real_BT: Tensor) -> Tensor:
    """For each place the one that it changes with as the text is turned round; padding stays where it is."""
    place_T = torch.arange(real_BT.shape[1], device=real_BT.device)
    return torch.where(real_BT, real_BT.sum(1, keepdim=True) - 1 - place_T, place_T)


def _vocabulary(vocabulary: str | None, file: VectorFile | None, most: int) -> Vocabulary:
    if file is not None and (vocabulary is None or Path(vocabulary) == file.path):
        return words_of(file, most)
    if vocabulary is None:
        raise ValueError(
            "a recurrent text tower needs a vocabulary or vectors: python -m mae_vlm vocabulary --kind words --data.path DATA learns one"
        )
    return read(vocabulary)


def _inside(embedding: int | None, file: VectorFile | None, width: int) -> int:
    if file is None:
        return width if embedding is None else embedding
    if embedding not in (None, file.width):
        raise ValueError(f"embedding {embedding} given, but vectors {file.path} have {file.width} numbers; leave it open")
    return file.width
