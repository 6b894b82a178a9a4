"""The contract of a text tower.

Letters: B texts, T tokens, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mae_vlm.encoders.arithmetic import blocks
from mae_vlm.tokens.words import Vocabulary, Words

POOLS = ("first", "end", "mean")


@dataclass(frozen=True)
class EncodedText:
    """Features of texts: ``tokens_BTD``, of which those are padding where ``words.real_BT`` is False."""

    tokens_BTD: Tensor
    words: Words

    def rows(self, index_R: Tensor) -> EncodedText:
        """These rows of the batch."""
        return replace(self, tokens_BTD=self.tokens_BTD[index_R], words=self.words.rows(index_R))

    def pooled(self, how: str = "first") -> Tensor:
        """One feature for each text ``[B, D]``: its ``first`` token (BERT's), its ``end`` token (CLIP's), or the ``mean`` without padding.

        Raises:
            ValueError: another ``how``.
        """
        if how == "first":
            return self.tokens_BTD[:, 0]
        real_BT = self.words.real_BT
        if how == "end":
            return self.tokens_BTD[torch.arange(len(real_BT), device=real_BT.device), real_BT.sum(1) - 1]
        if how != "mean":
            raise ValueError(f"pool {how!r} given, allowed are {', '.join(POOLS)}")
        share_BT1 = (real_BT / real_BT.sum(1, keepdim=True))[..., None].to(self.tokens_BTD.dtype)
        return (self.tokens_BTD * share_BT1).sum(1)


@dataclass(frozen=True)
class TextRows:
    """Any number of texts for each picture, one below the other: never none, so that the towers always run.

    Attributes:
        words: R texts; ``has_B`` is False in the one row that stands there where no picture has any.
        picture_R: int64, the picture of the batch that each belongs to.
    """

    words: Words
    picture_R: Tensor


class TextTower(nn.Module, ABC):
    """Texts to features. Owns the vocabulary that it was trained with, which goes into every checkpoint.

    Attributes:
        vocabulary: text to numbers and back.
        width: numbers per token (D).
        length: tokens of a text at most, begin and end included.
        learns: the kind of vocabulary that it takes where none is named, see :func:`mae_vlm.tokens.words.learn`.
    """

    learns: ClassVar[str] = "wordpiece"
    vocabulary: Vocabulary
    width: int
    length: int

    @abstractmethod
    def forward(self, words: Words, causal: bool = False) -> EncodedText:
        """Features of texts; padding changes nothing. With ``causal`` a token sees only itself and those before it.

        Raises:
            ValueError: ``causal`` of a tower that cannot.
        """

    @property
    @abstractmethod
    def word_table(self) -> nn.Embedding:
        """The embedding of its words, to which an output layer may be tied."""

    def flops(self) -> int:
        """Operations of one text of ``length`` tokens, forward."""
        return blocks(self, self.length)

    def words(self, texts: Sequence[str | None]) -> Words:
        """Texts as this tower's numbers, on its device; None stands for no text."""
        return self.vocabulary.encode(texts, self.length).to(self.word_table.weight.device)

    def rows(self, texts: Sequence[Sequence[str]], least: int = 1) -> TextRows:
        """All texts of each picture, and rows without a text up to the ``least`` number."""
        told: list[tuple[int, str | None]] = [(number, text) for number, some in enumerate(texts) for text in some]
        told += [(0, None)] * (least - len(told))
        words = self.words([text for _, text in told])
        return TextRows(words, torch.tensor([number for number, _ in told], device=words.ids_BT.device))

    def stated(self) -> dict[str, Any]:
        """What a checkpoint must hold, beside the options and the weights, to build the same tower anywhere: plain data."""
        return {"vocabulary": self.vocabulary.json}
