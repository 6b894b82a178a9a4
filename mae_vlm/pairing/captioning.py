"""The next word of a caption, from those before it and the picture: what a head and an objective share.

Letters: B pictures, T tokens of a caption, S tokens that are told from those before them (T - 1), D width, V tokens of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.passes import Held
from mae_vlm.encoders.text.word_head import WordHead
from mae_vlm.encoders.towers import Towers
from mae_vlm.pairing.blind import shown
from mae_vlm.tokens.words import Words
from mae_vlm.types import Encoded, Term


@dataclass(frozen=True)
class Told:
    """Captions to be told: ``truth_BS`` comes next at each place, ``counts_BS`` is False in prompt and padding, and without a caption."""

    words: Words
    truth_BS: Tensor
    counts_BS: Tensor


class Captioning(nn.Module):
    """A causal pass through text and fusion towers, and BERT's output layers tied to the words' embedding (BLIP, arXiv 2201.12086, 3.1).

    Args:
        towers: with a text tower that reads causally, and a fusion tower that keeps tokens and does too.
        smoothing: share of a token's certainty that is spread over the vocabulary, in training alone.
        prompt: words before every caption, which are given and count nothing.
        picture: False shows the fusion tower zeros in the picture's place: the same network, blind.

    Raises:
        ValueError: a tower is missing or cannot, or an option is out of range.
    """

    def __init__(self, towers: Towers, smoothing: float = 0.1, prompt: str = "", picture: bool = True) -> None:
        super().__init__()
        text, fusion = towers.told_text(), towers.told_fusion()
        if not fusion.tokens or not fusion.causal:
            raise ValueError(
                "this fusion tower cannot keep a word from seeing those after it; captions need one that can, as CrossAttention"
            )
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing {smoothing} given, allowed is a share from 0 to below 1")
        self.smoothing, self.prompt, self.picture = smoothing, prompt, picture
        self.vocabulary, self.length = text.vocabulary, text.length
        self.begins = int(self.vocabulary.encode([prompt], self.length).real_BT.sum()) - 1  # begin and prompt
        if self.begins > self.length - 2:
            raise ValueError(
                f"prompt {prompt!r} leaves no room for a caption in the {self.length} tokens of model.text; set its length higher"
            )
        self.head = WordHead(fusion.width, text.word_table.embedding_dim, len(text.vocabulary))

    def told(self, texts: list[str | None], device: torch.device) -> Told:
        """One caption of each picture, None for none, as tokens."""
        words = self.vocabulary.encode([text and f"{self.prompt} {text}".strip() for text in texts], self.length).to(device)
        place_S = torch.arange(1, words.ids_BT.shape[1], device=device)
        counts_BS = words.real_BT[:, 1:] & words.has_B[:, None] & (place_S >= self.begins)
        return Told(words, words.ids_BT[:, 1:], counts_BS)

    def forward(self, features: Features, told: Told) -> Tensor:
        """Logits of what comes after each token but the last ``[B, S, V]``."""
        return self.after(features, told.words, features.seen)[:, :-1]

    def after(self, features: Features, words: Words, seen: Encoded | Held, last: bool = False) -> Tensor:
        """Logits of what comes after each token of any words ``[R, T, V]``, or after the ``last`` alone ``[R, 1, V]``, float32 or better.

        ``seen`` are the pictures that they are about, row by row.
        """
        tokens_BTD = features.fuse(features.read(words, causal=True), shown(seen, self.picture), causal=True).tokens_BTD
        assert tokens_BTD is not None
        logits_BTV: Tensor = self.head(tokens_BTD[:, -1:] if last else tokens_BTD, features.word_table)
        return logits_BTV.to(torch.promote_types(logits_BTV.dtype, torch.float32))

    def terms(self, logits_BSV: Tensor, truth_BS: Tensor, counts_BS: Tensor) -> dict[str, Term]:
        """``cross_entropy``, and ``accuracy``, which weighs nothing, over the tokens that count."""
        smoothing = self.smoothing if self.training else 0.0
        loss_BS = functional.cross_entropy(logits_BSV.transpose(1, 2), truth_BS, reduction="none", label_smoothing=smoothing)
        count = counts_BS.sum().to(loss_BS.dtype)
        hits = ((logits_BSV.detach().argmax(-1) == truth_BS) & counts_BS).sum().to(loss_BS.dtype)
        return {"cross_entropy": Term((loss_BS * counts_BS).sum(), count), "accuracy": Term(hits, count, 0.0)}


def begun(ids_RT: Tensor) -> Words:
    """Captions that are being made, all of one length, as the towers take them."""
    everything_RT = torch.ones_like(ids_RT, dtype=torch.bool)
    return Words(ids_RT, everything_RT, torch.full_like(ids_RT, -1), everything_RT[:, 0])
