"""Pictures that look the same: hashes propose pairs, thumbnails laid over each other decide."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.neighbours import near_pairs
from data_prep.perceptual_hash import CUT, cut_matrix, hashes

# Correlation of the thumbnails, and of their details alone, from which on two pictures are copies. Copies of small pictures (short
# side under 64 pixels) lose details when they are shrunk or compressed: for them less is enough if the colours agree, or one is grey.
_STRICT, _SMALL, _SMALL_SIDE = (0.88, 0.60), (0.80, 0.40), 64
_GREY, _OTHER_COLOUR = 1.5, 0.6  # mean difference from grey, in halved levels; difference of colours, as a share of the colours
_MANY, _CHUNK = 2048, 64  # pairs compared at once as they are, and in 81 alignments each
_ALIGNMENTS = np.stack([cut_matrix(CUT * a, CUT * b) for a, b in itertools.product((0, 0.5, 1), repeat=2)])


@dataclass(frozen=True)
class Pairs:
    """Near-duplicates, the surest first: int64 ``pairs`` [P, 2], float32 ``likeness`` [P] (1: equal thumbnails), bool ``mirrored`` [P].

    ``proposed`` pairs were compared; ``crowded`` is that of ``near_pairs``.
    """

    pairs: NDArray[np.int64]
    likeness: NDArray[np.float32]
    mirrored: NDArray[np.bool_]
    proposed: int
    crowded: int


def find_pairs(
    thumbs_NHW: NDArray[np.uint8], colours_NHWC: NDArray[np.int8], short_sides: NDArray[np.integer[Any]], mirrored: bool = False
) -> Pairs:
    """All pairs of pictures that are copies of one another, from grey thumbnails uint8 ``[N, 32, 32]`` and ``colours``.

    ``short_sides`` [N] are in pixels of the pictures themselves. Copies may be re-encoded, smaller or larger by half, a little brighter or
    of other contrast, grey, or cut by up to 3 % at each margin; with ``mirrored`` also mirrored. One-coloured pictures are not to be given.
    """
    if len(thumbs_NHW) < 2:
        return Pairs(np.empty((0, 2), np.int64), np.empty(0, np.float32), np.empty(0, np.bool_), 0, 0)
    proposed, crowded = near_pairs(*hashes(thumbs_NHW, mirrored))
    scores = [_compare(thumbs_NHW, proposed, False), *([_compare(thumbs_NHW, proposed, True)] if mirrored else [])]
    side = scores[-1][0] > scores[0][0]
    whole, detail = (np.where(side, scores[-1][part], scores[0][part]) for part in (0, 1))
    small = (short_sides[proposed].min(axis=1) < _SMALL_SIDE) & _colours_agree(colours_NHWC, proposed, side & mirrored)
    same = (whole >= np.where(small, _SMALL[0], _STRICT[0])) & (detail >= np.where(small, _SMALL[1], _STRICT[1]))
    order = np.flatnonzero(same)[np.argsort(-whole[same], kind="stable")]
    return Pairs(proposed[order], whole[order], side[order] & mirrored, len(proposed), crowded)


def _colours_agree(colours_NHWC: NDArray[np.int8], pairs: NDArray[np.int64], flip: NDArray[np.bool_]) -> NDArray[np.bool_]:
    one, other = (colours_NHWC[pairs[:, side]].astype(np.float32) for side in (0, 1))
    other = np.where(flip[:, None, None, None], other[:, :, ::-1], other)
    strength = np.minimum(*(np.abs(part).mean(axis=(1, 2, 3)) for part in (one, other)))
    away = np.abs(one - other).mean(axis=(1, 2, 3))
    result: NDArray[np.bool_] = (strength < _GREY) | (away < _OTHER_COLOUR * strength)
    return result


def _compare(thumbs_NHW: NDArray[np.uint8], pairs: NDArray[np.int64], flip: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """For each pair the best correlation over alignments, of all and of details: float32 ``[P]`` each."""
    whole, detail = np.zeros(len(pairs), np.float32), np.zeros(len(pairs), np.float32)
    for start in range(0, len(pairs), _MANY):  # most copies lie on each other as they are
        part = slice(start, start + _MANY)
        one, other = _thumbs(thumbs_NHW, pairs[part], flip)
        whole[part], detail[part] = _correlation(one, other), _correlation(_details(one), _details(other))
    rest = np.flatnonzero((whole < _STRICT[0]) | (detail < _STRICT[1]))
    for start in range(0, len(rest), _CHUNK):
        some = rest[start : start + _CHUNK]
        one, other = _thumbs(thumbs_NHW, pairs[some], flip)
        there, back = _aligned(one, other), _aligned(other, one)
        better = back[0] > there[0]
        whole[some], detail[some] = (np.where(better, back[i], there[i]) for i in (0, 1))
    return whole, detail


def _thumbs(thumbs_NHW: NDArray[np.uint8], pairs: NDArray[np.int64], flip: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    one, other = (thumbs_NHW[pairs[:, side]].astype(np.float32) for side in (0, 1))
    return one, other[:, :, ::-1] if flip else other


def _aligned(cut_PHW: NDArray[np.float32], fixed_PHW: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Correlations at the best of 81 ways to cut margins off the first picture of each pair."""
    rows = np.einsum("kij,pjw->pkiw", _ALIGNMENTS, cut_PHW, optimize=True)
    cuts = np.einsum("pkiw,mjw->pkmij", rows, _ALIGNMENTS, optimize=True)  # [P, 9, 9, 32, 32]
    cuts = cuts.reshape(len(cuts), -1, *cuts.shape[-2:])
    scores = _correlation(cuts, fixed_PHW[:, None])
    best = scores.argmax(axis=1)
    places = np.arange(len(best))
    return scores[places, best], _correlation(_details(cuts[places, best]), _details(fixed_PHW))


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pearson's, over the last two axes; 0 where a side is constant."""
    one, other = (part - part.mean(axis=(-2, -1), keepdims=True) for part in (one, other))
    product = np.einsum("...ij,...ij->...", one, other)
    scale = np.sqrt(np.einsum("...ij,...ij->...", one, one) * np.einsum("...ij,...ij->...", other, other))
    result: NDArray[np.float32] = product / np.maximum(scale, 1e-6)
    return result


def _details(thumbs_PHW: NDArray[np.float32]) -> NDArray[np.float32]:
    """What is left when the mean of the 5 x 5 pixels around each is taken away."""
    padded = np.pad(thumbs_PHW, ((0, 0), (2, 2), (2, 2)), mode="edge")
    height, width = thumbs_PHW.shape[1:]
    rows = np.add.reduce([padded[:, shift : shift + height] for shift in range(5)])
    around: NDArray[np.float32] = np.add.reduce([rows[:, :, shift : shift + width] for shift in range(5)]) / np.float32(25)
    return thumbs_PHW - around
