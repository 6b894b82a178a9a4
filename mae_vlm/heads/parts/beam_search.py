"""The likeliest text under a model of the next token, by beams.

Letters: B texts, W beams of each, R rows (B * W), T tokens so far, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Spoken(NamedTuple):
    """Texts as tokens ``[B, T]``, what was given first, padding last; and the mean log-probability ``[B]`` of the tokens found."""

    ids_BT: Tensor
    score_B: Tensor


class Beams(NamedTuple):
    """How texts are looked for.

    Attributes:
        width: beams kept for each text; 1 takes the likeliest token each time.
        shortest, longest: tokens found, the end not counted.
        end, pad: their numbers in the vocabulary.
        barred: numbers that are never said.
    """

    width: int
    shortest: int
    longest: int
    end: int
    pad: int
    barred: tuple[int, ...] = ()


def beam_search(after: Callable[[Tensor], Tensor], given_BT: Tensor, beams: Beams, early: bool = True) -> Spoken:
    """Go on from ``given_BT``; ``after`` gives the logits of the next token ``[R, V]`` of tokens ``[R, T]``, a text's beams together.

    Beams are kept by their probability, ended ones among them; of those left at the end the one with the highest mean log-probability
    of its tokens, its end included, is the text (length penalty 1, as BLIP). Nothing is drawn by chance. With ``early`` it stops as soon
    as all beams have ended: set it where no other process waits for the model.
    """
    rows, given = len(given_BT), given_BT.shape[1]
    ids_RT = given_BT.repeat_interleave(beams.width, 0)
    score_BW = torch.full((rows, beams.width), -torch.inf, device=given_BT.device)
    score_BW[:, 0] = 0.0  # all begin alike: only one may go on
    ended_R = torch.zeros(len(ids_RT), dtype=torch.bool, device=given_BT.device)
    for step in range(beams.longest + 1):
        if early and bool(ended_R.all()):
            break
        log_RV = _allowed(after(ids_RT).float().log_softmax(-1), ended_R, step, beams)
        tokens = log_RV.shape[1]
        score_BW, best_BW = (score_BW[..., None] + log_RV.view(rows, beams.width, tokens)).flatten(1).topk(beams.width)
        from_BW = best_BW // tokens + torch.arange(rows, device=ids_RT.device)[:, None] * beams.width
        token_R = (best_BW % tokens).flatten()
        ids_RT = torch.cat([ids_RT[from_BW.flatten()], token_R[:, None]], 1)
        ended_R = ended_R[from_BW.flatten()] | (token_R == beams.end)
    found_BWT = ids_RT.view(rows, beams.width, -1)
    mean_BW = score_BW / _lengths(found_BWT[..., given:], beams.end)
    best_B = mean_BW.argmax(1)
    every_B = torch.arange(rows, device=ids_RT.device)
    return Spoken(found_BWT[every_B, best_B], mean_BW[every_B, best_B])


def _allowed(log_RV: Tensor, ended_R: Tensor, step: int, beams: Beams) -> Tensor:
    """Log-probabilities of the tokens that may come now: no end before the shortest text, nothing else after the longest."""
    every_V = torch.arange(log_RV.shape[1], device=log_RV.device)
    out_V = torch.isin(every_V, torch.tensor(beams.barred, dtype=torch.int64, device=log_RV.device)) & (every_V != beams.end)
    if step < beams.shortest:
        out_V = out_V | (every_V == beams.end)
    if step == beams.longest:
        out_V = every_V != beams.end
    filling_V = torch.zeros_like(log_RV[0]).masked_fill(every_V != beams.pad, -torch.inf)
    return torch.where(ended_R[:, None], filling_V, log_RV.masked_fill(out_V, -torch.inf))


def _lengths(found_BWT: Tensor, end: int) -> Tensor:
    """Tokens found, the first end included."""
    before_BWT = (found_BWT == end).cumsum(-1) == 0
    return before_BWT.sum(-1) + 1
