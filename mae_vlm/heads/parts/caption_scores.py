"""How good captions are, over a whole set."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.text import bleu_score, rouge_score

from mae_vlm.heads.parts.cider import cider_d

_FEW = 50  # pictures below which the weights of phrases say little
_TEXT, _PICTURE = "\x1f", "\x1e"  # what ends a text, and all texts of a picture, in the bytes that processes exchange
_WORD = re.compile(r"[぀-ヿ㐀-䶿一-鿿豈-﫿]|[^\W_぀-ヿ㐀-䶿一-鿿豈-﫿]+(?:['’][^\W_]+)*")


def words_of(text: str) -> list[str]:
    """Lower-case words without punctuation, Chinese and Japanese letter by letter.

    The published numbers come from the Penn Treebank tokenizer, which is a Java program: ours differ from them in the third decimal.
    """
    return _WORD.findall(text.lower())


class CaptionScores(Metric):
    """``cider`` (CIDEr-D), ``bleu4`` (of the whole set) and ``rouge_l`` (the F1 of the best reference, averaged), all captions of a picture
    being its references. See :func:`words_of` for what is a word.
    """

    full_state_update = False
    texts: list[Tensor]

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self.add_state("texts", default=[], dist_reduce_fx="cat")

    def update(self, said: Sequence[str], written: Sequence[Sequence[str]]) -> None:
        """A caption of each picture, and what is written of it; pictures of which nothing is do not count."""
        rows = [[" ".join(words_of(text)) for text in (one, *some)] for one, some in zip(said, written, strict=True) if some]
        told = "".join(_TEXT.join(row) + _PICTURE for row in rows).encode()
        self.texts.append(torch.frombuffer(bytearray(told), dtype=torch.uint8).to(self.device) if told else self._nothing())

    def compute(self) -> dict[str, Tensor]:
        parts: Any = self.texts  # a list, or what torchmetrics has made of it already
        whole = parts if isinstance(parts, Tensor) else torch.cat([self._nothing(), *parts])
        rows = [row.split(_TEXT) for row in whole.cpu().numpy().tobytes().decode().split(_PICTURE)[:-1]]
        said, written = [row[0] for row in rows], [row[1:] for row in rows]
        if len(rows) < _FEW:
            warnings.warn(f"CIDEr of {len(rows)} pictures: its weights of phrases say little below {_FEW}", stacklevel=2)
        if not rows:
            return {name: torch.zeros((), device=self.device) for name in ("cider", "bleu4", "rouge_l")}
        cider = cider_d([one.split() for one in said], [[one.split() for one in some] for some in written])
        rouge = rouge_score(said, written, accumulate="best", rouge_keys="rougeL", normalizer=str, tokenizer=str.split)
        found = {"cider": torch.tensor(sum(cider) / len(cider)), "bleu4": bleu_score(said, written), "rouge_l": rouge["rougeL_fmeasure"]}
        return {name: value.to(self.device) for name, value in found.items()}

    def _nothing(self) -> Tensor:
        return torch.zeros(0, dtype=torch.uint8, device=self.device)
