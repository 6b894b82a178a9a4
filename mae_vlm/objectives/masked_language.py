"""Masked language: the hidden words of a caption from the others and the picture.

Letters: B pairs, T tokens, S slots for hidden tokens, D width, V tokens of the vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.teacher import copied
from mae_vlm.encoders.text.base import EncodedText
from mae_vlm.encoders.text.word_head import WordHead
from mae_vlm.encoders.towers import Towers
from mae_vlm.objectives.base import Objective
from mae_vlm.pairing.distillation import Trust, divergence
from mae_vlm.tokens.masked_words import MaskedWords, mask_words
from mae_vlm.types import Batch, Loss, Term


class MaskedLanguage(Objective):
    """Cross-entropy of the hidden tokens of whole words (BERT), told from the caption's other words and the picture (ALBEF, section 3.2).

    Logs ``cross_entropy`` and ``accuracy`` over hidden tokens; validation also ``other_picture``, the accuracy with the picture of another
    pair in the caption's place: a model that looks at pictures is clearly better with the right one.

    With ``alpha`` it learns from the towers' moving average too (``model.teacher``): other words than the caption's may suit the picture as
    well (momentum distillation: ALBEF, section 3.4). Validation tells the plain cross-entropy, with or without it.

    Args:
        towers, weight: see :class:`Objective`.
        share: of the words that are hidden.
        picture: whether the fusion tower shows it the picture; False reads the caption alone (BERT).
        alpha: weight of the teacher's answers, .4 in ALBEF; the truth keeps the rest. 0 distils nothing.
        ramp: optimizer steps over which ``alpha`` grows from 0, in ALBEF those of the first epoch.

    Raises:
        ValueError: no text tower, no fusion tower that keeps tokens, a vocabulary without a mask, or a share, alpha or ramp out of range.
    """

    def __init__(
        self, towers: Towers, weight: float = 1.0, share: float = 0.15, picture: bool = True, alpha: float = 0.0, ramp: int = 1000
    ) -> None:
        super().__init__(towers, weight)
        text = towers.told_text()
        if not 0 < share < 1:
            raise ValueError(f"share {share} of hidden words given, allowed is a share between 0 and 1, as 0.15")
        if text.vocabulary.mask is None:
            raise ValueError("the text tower's vocabulary has no mask token; masked language needs one, such as [MASK]")
        if picture and not towers.told_fusion().tokens:
            raise ValueError(
                "this fusion tower keeps no tokens, of which masked language needs each; take another, or set picture to false"
            )
        self.share, self.picture = share, picture
        self.views = (*(towers.told_fusion().views if picture else ("text",)), *(("teacher",) if alpha else ()))
        self.vocabulary = text.vocabulary
        width = towers.told_fusion().width if picture else text.width
        self.head = WordHead(width, text.word_table.embedding_dim, len(text.vocabulary))
        trust = Trust(alpha, ramp)
        self.trust = trust if alpha else None
        self.slow = copied(self.head) if alpha else None

    def forward(self, features: Features, batch: Batch) -> Loss:
        masked = self._masked(features)
        text = features.read(masked.words)
        logits_BSV = self._logits(features, masked, text)
        loss_BS = self._soft(features, masked, logits_BSV, self._hard(logits_BSV, masked))
        hidden = masked.hidden_BS.sum().to(loss_BS.dtype)
        terms = {"cross_entropy": Term((loss_BS * masked.hidden_BS).sum(), hidden), "accuracy": _accuracy(logits_BSV, masked)}
        if not self.training and self.picture:
            partner_B = torch.arange(len(batch), device=logits_BSV.device) ^ 1
            partner_B = torch.where(partner_B < len(batch), partner_B, max(0, len(batch) - 2))
            other = features.fuse(text, features.seen.rows(partner_B)).tokens_BTD
            assert other is not None
            terms["other_picture"] = _accuracy(_told(self.head, features, masked, other), masked)
        return Loss.of(terms)

    def counts(self, features: Features) -> dict[str, Tensor]:
        hidden = self._masked(features).hidden_BS.sum()
        return {"cross_entropy": hidden, "accuracy": hidden}

    def _masked(self, features: Features) -> MaskedWords:
        keys_B = features.batch.keys_B
        return features.once(f"masked words {self.share}", lambda: mask_words(features.words, keys_B, self.vocabulary, self.share))

    def _logits(self, features: Features, masked: MaskedWords, text: EncodedText, head: nn.Module | None = None) -> Tensor:
        tokens_BTD = features.fuse(text).tokens_BTD if self.picture else text.tokens_BTD
        assert tokens_BTD is not None
        return _told(self.head if head is None else head, features, masked, tokens_BTD)

    def _hard(self, logits_BSV: Tensor, masked: MaskedWords) -> Tensor:
        loss_BS = functional.cross_entropy(logits_BSV.flatten(0, 1), masked.truth_BS.flatten(), reduction="none")
        return loss_BS.view_as(masked.truth_BS)

    def _soft(self, features: Features, masked: MaskedWords, logits_BSV: Tensor, hard_BS: Tensor) -> Tensor:
        """The loss of each slot, mixed in training with that of the teacher's answers."""
        if self.trust is None or self.slow is None or not self.training:
            return hard_BS
        with torch.no_grad():
            teacher = features.teacher()
            taught_BSV = self._logits(teacher, masked, teacher.read(masked.words), self.slow)
        return self.trust.mixed(hard_BS, divergence(taught_BSV, logits_BSV))

    @property
    def averages(self) -> tuple[tuple[nn.Module, nn.Module], ...]:
        """The teacher's head and the one that it follows."""
        return () if self.slow is None else ((self.slow, self.head),)

    def after_step(self) -> None:
        if self.trust is not None:
            self.trust.step()


def _told(head: nn.Module, features: Features, masked: MaskedWords, tokens_BTD: Tensor) -> Tensor:
    """Logits at the slots ``[B, S, V]``, in float32 or better."""
    slots_BSD = tokens_BTD.gather(1, masked.slots_BS[..., None].expand(-1, -1, tokens_BTD.shape[-1]))
    logits_BSV: Tensor = head(slots_BSD, features.word_table)
    return logits_BSV.to(torch.promote_types(logits_BSV.dtype, torch.float32))


def _accuracy(logits_BSV: Tensor, masked: MaskedWords) -> Term:
    """As a term that is only told: it weighs nothing."""
    right_BS = (logits_BSV.detach().argmax(-1) == masked.truth_BS) & masked.hidden_BS
    return Term(right_BS.sum().to(logits_BSV.dtype), masked.hidden_BS.sum().to(logits_BSV.dtype), 0.0)
