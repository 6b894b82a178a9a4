"""Right pairs of picture and text beside wrong ones, seen together: what an objective and a head share.

Letters: B pairs of one process, A pairs of all of them, R = 3 B, T tokens, D width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.text.base import EncodedText, TextTower
from mae_vlm.pairing.exchange import Routes, routes
from mae_vlm.pairing.gather import gather, processes
from mae_vlm.pairing.pairs import Pairs
from mae_vlm.tokens.chance import uniform
from mae_vlm.tokens.words import Words
from mae_vlm.types import Encoded

_TEXTS, _IMAGES = 31, 32  # streams of chance


class _Negatives(NamedTuple):
    """For each pair a text (picture) of another, of all processes, and whether there is one that is no pair."""

    index_B: Tensor
    there_B: Tensor


class Matched(NamedTuple):
    """Each right pair, each picture with a wrong text, each text with a wrong picture, one below the other.

    ``logits_R2`` of no and yes, what is right (1 or 0), and whether there is such a pair.
    """

    logits_R2: Tensor
    right_R: Tensor
    counts_R: Tensor


class Longest(NamedTuple):
    """What all processes pad texts to before they exchange them: tokens, and the number that stands for none."""

    length: int
    pad: int

    @classmethod
    def of(cls, tower: TextTower) -> Longest:
        return cls(tower.length, tower.vocabulary.pad)


def telling(width: int) -> nn.Linear:
    """A fresh layer that tells wrong from right by the fused feature."""
    layer = nn.Linear(width, 2)
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


def matched(features: Features, told: Pairs, layer: nn.Module, scale: float, longest: Longest) -> Matched:
    """What ``layer`` says of a batch's pairs and as many wrong ones; all processes must ask, with as many pairs.

    Wrong ones are drawn in proportion to the softmax of ``scale`` times their similarity, in the space that a part trains, else evenly.
    """
    texts, images = _negatives(features, told, scale)
    of_texts, of_images = routes(len(told.own_B), texts.index_B, images.index_B)
    pooled = [
        features.fused.pooled_BD,
        features.fuse(_others_text(features, of_texts, longest)).pooled_BD,
        _with_pictures(features, of_images),
    ]
    logits_R2 = layer(torch.cat(pooled)).to(torch.promote_types(pooled[0].dtype, torch.float32))
    right_R = torch.cat([torch.ones_like(told.own_B), torch.zeros_like(told.own_B), torch.zeros_like(told.own_B)])
    return Matched(logits_R2, right_R, torch.cat([told.has_B, texts.there_B, images.there_B]))


def count(told: Pairs) -> Tensor:
    """How many pairs there will be, right and wrong ones, before any tower has run."""
    return told.has_B.sum() + 2 * _wrong(told).any(1).sum()


def _negatives(features: Features, told: Pairs, scale: float) -> tuple[_Negatives, _Negatives]:
    """Which text goes with each picture, and which picture with each text; nothing of it is trained."""
    found, wrong_BA = features.embedded, _wrong(told)
    if found is None:
        near = [torch.zeros_like(wrong_BA, dtype=torch.float32)] * 2
    else:
        image_BE, text_BE = found.image_BE.detach(), found.text_BE.detach()
        with torch.autocast(image_BE.device.type, enabled=False):  # chance in half precision would reach 1, which beats any similarity
            near = [scale * image_BE @ gather(text_BE).T, scale * text_BE @ gather(image_BE).T]
    keys_B = features.batch.keys_B
    drawn = [_drawn(near_BA, wrong_BA, keys_B, stream) for near_BA, stream in zip(near, (_TEXTS, _IMAGES), strict=True)]
    return drawn[0], drawn[1]


def _others_text(features: Features, way: Routes, longest: Longest) -> EncodedText:
    """The wanted captions of all processes, encoded."""
    own = features.text
    if processes() == 1:
        return own.rows(way.wanted_R)
    words = own.words.padded(*longest)
    tokens_BTD = functional.pad(own.tokens_BTD, (0, 0, 0, longest.length - own.tokens_BTD.shape[1]))
    parts = (words.ids_BT, words.real_BT, words.word_BT, words.has_B)  # some bytes of each
    return EncodedText(way.fetch(tokens_BTD), Words(*(gather(part)[way.wanted_R] for part in parts)))


def _with_pictures(features: Features, way: Routes) -> Tensor:
    """Each caption with another picture: the fused feature ``[B, D]``."""
    seen = features.seen
    if isinstance(seen, Encoded):  # what it has besides, no fusion looks at
        seen = Encoded(seen.tokens_BTD, seen.prefix)
    return features.fuse(features.text, replace(seen, tokens_BTD=way.fetch(seen.tokens_BTD))).pooled_BD


def _wrong(told: Pairs) -> Tensor:
    """Bool ``[B, A]``: what may stand in for the caption (picture) of a pair as a wrong one."""
    return ~told.same_BA & told.has_A & told.has_B[:, None]


def _drawn(near_BA: Tensor, wrong_BA: Tensor, keys_B: Tensor, stream: int) -> _Negatives:
    """One of the wrong ones for each row, with the probabilities of the softmax over them (by Gumbel's trick, which no row can break)."""
    chance_BA = uniform(keys_B, near_BA.shape[1], stream).to(near_BA.dtype).clamp(1e-7, 1 - 1e-7)
    score_BA = (near_BA - (-chance_BA.log()).log()).masked_fill(~wrong_BA, -torch.inf)
    return _Negatives(score_BA.argmax(1), wrong_BA.any(1))
