"""Captions of which one word is another, such as could stand there: what tells right from wrong then is that word alone.

Letters: B texts of one process, A texts of all of them, T tokens, K different tokens between two others.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.text.base import EncodedText
from mae_vlm.pairing.gather import gather
from mae_vlm.pairing.matched import Longest
from mae_vlm.tokens.chance import uniform
from mae_vlm.tokens.words import Words

_PLACE, _WORD = 91, 92  # streams of chance
_BITS = 20  # of a token's number: three of them are one integer


class Swapped(NamedTuple):
    """Texts of which one word is another, and whether such a word was found; where none was, the text is as before."""

    words: Words
    there_B: Tensor


def told_wrong(features: Features, longest: Longest) -> Swapped:
    """The captions of a batch with a word swapped, the same for every part that asks; all processes must ask."""
    return features.once("swapped words", lambda: swapped(features.words, features.batch.keys_B, longest))


def read_wrong(features: Features, longest: Longest) -> EncodedText:
    """The text tower's view of them."""
    return features.once("swapped words, read", lambda: features.read(told_wrong(features, longest).words))


def swapped(words: Words, keys_B: Tensor, longest: Longest) -> Swapped:
    """Each text with one of its words replaced by another that a text of the batch, of all processes, has between the same two tokens.

    So a colour becomes another colour, and what is said stays a sentence; nobody has to name the kinds of words (they are known by the
    company they keep: Firth 1957; captions with a swapped word as wrong ones: Yuksekgonul et al. 2022, arXiv 2210.01936, whose words
    change places). Which word, and what for, each as likely, comes from ``keys_B`` alone. Words of several tokens stay. That it is
    wrong is taken for granted: where words differ and mean the same, it is not. All processes must ask, with as many texts.
    """
    kinds_K = _kinds(words, longest)
    triple_BT, whole_BT = _triples(words.ids_BT), _whole(words)
    begin_BT, end_BT = (torch.searchsorted(kinds_K >> _BITS, triple_BT >> _BITS, right=right) for right in (False, True))
    many_BT = end_BT - begin_BT  # different words between the same two
    possible_BT = whole_BT & (many_BT > 1)
    chance_BT = uniform(keys_B, words.ids_BT.shape[1], _PLACE).masked_fill(~possible_BT, -1)
    place_B1 = chance_BT.argmax(1, keepdim=True)
    begin_B1, many_B1, triple_B1 = (part_BT.gather(1, place_B1) for part_BT in (begin_BT, many_BT, triple_BT))
    own_B1 = torch.searchsorted(kinds_K, triple_B1) - begin_B1
    further_B1 = 1 + (uniform(keys_B, 1, _WORD) * (many_B1 - 1)).long()  # a float32 below 1 times a whole number may be that number
    further_B1 = torch.minimum(further_B1, many_B1 - 1).clamp(min=1)
    there_B = possible_BT.any(1)
    found_B1 = begin_B1 + (own_B1 + further_B1) % many_B1.clamp(min=1)
    word_B1 = kinds_K[found_B1.clamp(max=len(kinds_K) - 1)] & ((1 << _BITS) - 1)
    word_B1 = torch.where(there_B[:, None], word_B1, words.ids_BT.gather(1, place_B1))
    return Swapped(replace(words, ids_BT=words.ids_BT.scatter(1, place_B1, word_B1)), there_B)


def _kinds(words: Words, longest: Longest) -> Tensor:
    """All different triples of all processes, in order ``[K]``; never none."""
    told = words.padded(*longest)
    ids_AT, word_AT, has_A = gather(told.ids_BT), gather(told.word_BT), gather(told.has_B)
    triples_AT, whole_AT = _triples(ids_AT), _alone(word_AT) & has_A[:, None]
    least = torch.full_like(triples_AT, -1)  # stands for all that is no word, and belongs to none
    kinds_K: Tensor = torch.unique(torch.where(whole_AT, triples_AT, least))
    return kinds_K


def _triples(ids_BT: Tensor) -> Tensor:
    """Each token behind those before and after it, as one number: what is between the same two is side by side when sorted."""
    return (ids_BT.roll(1, 1) << (2 * _BITS)) | (ids_BT.roll(-1, 1) << _BITS) | ids_BT


def _whole(words: Words) -> Tensor:
    return _alone(words.word_BT) & words.has_B[:, None]


def _alone(word_BT: Tensor) -> Tensor:
    """Whether a token is a whole word: a text begins and ends with tokens that are none, so that the two beside it are its own."""
    return (word_BT >= 0) & (word_BT != word_BT.roll(1, 1)) & (word_BT != word_BT.roll(-1, 1))
