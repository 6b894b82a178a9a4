"""Which words of a text are hidden, and what stands in their places.

Letters: B texts, T tokens, S slots for hidden tokens, V tokens of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mae_vlm.tokens.chance import uniform
from mae_vlm.tokens.words import Vocabulary, Words

_WORDS, _INSTEAD, _WHICH = 21, 22, 23  # streams of chance


@dataclass(frozen=True)
class MaskedWords:
    """Texts of which some words are hidden.

    Attributes:
        words: the texts as the model sees them.
        slots_BS: int64 places of hidden tokens; a row with fewer has other places there.
        truth_BS: int64, the token that was there.
        hidden_BS: False where a slot holds no hidden token and counts zero.
    """

    words: Words
    slots_BS: Tensor
    truth_BS: Tensor
    hidden_BS: Tensor


def mask_words(words: Words, keys_B: Tensor, vocabulary: Vocabulary, share: float = 0.15) -> MaskedWords:
    """Hide each word with probability ``share``, all of its tokens together; chance comes from ``keys_B`` alone.

    Of the tokens of hidden words 80 % become the mask, 10 % a random token, 10 % stay (BERT, arXiv 1810.04805, appendix A.1; whole words
    as in its later releases). At most half of a text's tokens are hidden: from the word on that would be too many, none is.

    Raises:
        ValueError: a vocabulary without a mask.
    """
    if vocabulary.mask is None:
        raise ValueError("the vocabulary has no mask token; masked language needs one, such as [MASK]")
    across = words.ids_BT.shape[1]
    part_BT = words.word_BT.clamp(min=0)
    chosen_BT = (uniform(keys_B, across, _WORDS).gather(1, part_BT) < share) & (words.word_BT >= 0) & words.has_B[:, None]
    most_B1 = ((words.word_BT >= 0).sum(1, keepdim=True) + 1) // 2  # of the text alone, however far it is padded
    sofar_BT = chosen_BT.cumsum(1)
    after_BT = torch.zeros_like(sofar_BT).scatter_reduce(1, part_BT, sofar_BT * chosen_BT, "amax").gather(1, part_BT)  # its word's last
    chosen_BT = chosen_BT & (after_BT <= most_B1)
    instead_BT, which_BT = uniform(keys_B, across, _INSTEAD), uniform(keys_B, across, _WHICH)
    ordinary_V = ordinary(vocabulary, words.ids_BT.device)
    other_BT = ordinary_V[(which_BT * len(ordinary_V)).long().clamp(max=len(ordinary_V) - 1)]
    shown_BT = torch.where(instead_BT < 0.8, vocabulary.mask, torch.where(instead_BT < 0.9, other_BT, words.ids_BT))
    order_BT = chosen_BT.int().argsort(dim=1, descending=True, stable=True)
    slots_BS = order_BT[:, : max(1, across // 2)]
    hidden_BS = chosen_BT.gather(1, slots_BS)
    seen = replace(words, ids_BT=torch.where(chosen_BT, shown_BT, words.ids_BT))
    return MaskedWords(seen, slots_BS, words.ids_BT.gather(1, slots_BS), hidden_BS)


def ordinary(vocabulary: Vocabulary, device: torch.device) -> Tensor:
    """The numbers of all tokens but the special ones ``[V]``."""
    own_V = torch.ones(len(vocabulary), dtype=torch.bool)
    own_V[vocabulary.special] = False
    return own_V.nonzero()[:, 0].to(device)
