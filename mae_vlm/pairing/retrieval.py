"""Retrieval between pictures and all their captions over a whole set: recall, ranks, and a second look at the best.

Letters: G pictures of all processes, R texts of all of them, Q queries, K candidates of each, E numbers of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric

from mae_vlm.pairing.gather import processes

_CELLS = 1 << 24  # similarities that exist at one time: 64 MiB in float32
_AT_ONCE = 256  # pairs that are judged at one time
_FAR = 1e6  # what puts candidates before all others: similarities are from -1 to 1
RANKS = (1, 5, 10)

# of the tokens of K pictures and the numbers of K texts (as ``Told``), a score of each pair
Judge = Callable[[Tensor, "Told"], Tensor]


class Told(NamedTuple):
    """Texts as numbers of a vocabulary ``[K, T]``, and how many of each are real."""

    ids_KT: Tensor
    length_K: Tensor


class Held(NamedTuple):
    """A set of pictures and of texts, and which belong together.

    ``picture_R`` is the place in the set of the picture that a text is told of, ``word_R`` a number below ``words`` for each other text:
    right for a picture are all texts that say the same as one of its own, right for a text all pictures of which that is said.
    """

    image_GE: Tensor
    text_RE: Tensor
    picture_R: Tensor
    word_R: Tensor
    words: int

    def right(self, rows: slice, asks: str) -> Tensor:
        """Bool ``[Q, R]`` for the pictures ``rows``, or ``[Q, G]`` for the texts ``rows``."""
        if asks == "text":
            return _joined(self.word_R[rows], self.word_R, self.picture_R, len(self.image_GE))
        asking_Q = torch.arange(len(self.image_GE), device=self.picture_R.device)[rows]
        return _joined(asking_Q, self.picture_R, self.word_R, self.words)[:, self.word_R]

    def near(self, rows: slice, asks: str) -> Tensor:
        """Similarities of those to all of the other kind."""
        return self.text_RE[rows] @ self.image_GE.T if asks == "text" else self.image_GE[rows] @ self.text_RE.T

    def chunks(self, asks: str) -> list[slice]:
        """The queries in parts whose similarities may exist at one time."""
        count = len(self.text_RE if asks == "text" else self.image_GE)
        size = max(1, _CELLS // max(1, len(self.image_GE), len(self.text_RE), self.words))
        return [slice(start, start + size) for start in range(0, count, size)]


def ranks(held: Held, asks: str, candidate_QK: Tensor | None = None, score_QK: Tensor | None = None) -> Tensor:
    """For each query how many wrong ones are at least as near as the nearest right one ``[Q]``, int64; ties count against it.

    ``asks`` is text or image. Candidates come first, by their own scores.
    """
    found = []
    for rows in held.chunks(asks):
        near_QX, right_QX = held.near(rows, asks), held.right(rows, asks)
        if candidate_QK is not None and score_QK is not None:
            near_QX = near_QX.double().scatter(1, candidate_QK[rows], score_QK[rows].double() + _FAR)
        best_Q1 = near_QX.masked_fill(~right_QX, -torch.inf).amax(1, keepdim=True)
        found.append(((near_QX >= best_Q1) & ~right_QX).sum(1))
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)


class Retrieval(Metric):
    """``text_to_image_r1``, ``_r5``, ``_r10`` and ``_median_rank``, the same of ``image_to_text``, and ``recall_mean``, that of the six.

    A text finds its picture, and a picture any of its captions; what says the same words as one of them is right too. A picture without a
    caption is among those looked for and asks nothing. With ``rerank`` the first so many of each query are judged pair by pair, and come
    in the order of that score plus their similarity; ``recall_mean_unranked`` is the mean without. Pictures' tokens stay on the process
    that saw them, on the host, in half precision (ViT-B/16 at 224 pixels: 300 MB for a thousand); each judges the pairs of its own.
    """

    full_state_update = False
    images: Any
    texts: Any
    owner: Any
    told: Any
    who: Any
    place: Any
    ids: Any
    lengths: Any

    def __init__(self, rerank: int = 0, **named: Any) -> None:
        super().__init__(**named)
        self.rerank = rerank
        for name in ("images", "texts", "owner", "told", "who", "place", "ids", "lengths"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self.tokens: list[Tensor] = []
        self.judge: Judge | None = None

    def update(
        self,
        image_BE: Tensor,
        who_B: Tensor,
        text_RE: Tensor,
        owner_R: Tensor,
        word_R: Tensor,
        tokens_BTD: Tensor | None = None,
        words: Told | None = None,
        judge: Judge | None = None,
    ) -> None:
        """Pictures and who they are (int64), texts, whose they are and what they say (int64 ``word_R``); for a second look the pictures'
        tokens, the texts' numbers and what judges them.
        """
        rank = dist.get_rank() if processes() > 1 else 0
        self.images.append(image_BE.float())
        self.who.append(who_B)
        self.place.append(torch.full_like(who_B, rank))
        self.texts.append(text_RE.float())
        self.owner.append(owner_R)
        self.told.append(word_R)
        if self.rerank:
            assert tokens_BTD is not None and words is not None
            self.tokens.append(tokens_BTD.half().cpu())
            self.ids.append(words.ids_KT)
            self.lengths.append(words.length_K)
            self.judge = judge

    def reset(self) -> None:
        super().reset()
        self.tokens, self.judge = [], None

    def compute(self) -> dict[str, Tensor]:
        held = self._held()
        if not len(held.text_RE):
            none = held.image_GE.new_zeros(())
            return {f"{name}_r{k}": none for name in ("text_to_image", "image_to_text") for k in RANKS} | {"recall_mean": none}
        asking_G = torch.zeros(len(held.image_GE), dtype=torch.bool, device=held.picture_R.device).index_fill(0, held.picture_R, True)
        found = _measured(ranks(held, "text"), ranks(held, "image")[asking_G])
        if not self.rerank:
            return found
        again = _measured(self._second("text", held), self._second("image", held)[asking_G])
        return again | {"recall_mean_unranked": found["recall_mean"]}

    def _held(self) -> Held:
        image_GE, who_G, text_RE, owner_R, told_R = (_cat(part) for part in (self.images, self.who, self.texts, self.owner, self.told))
        order_G = who_G.argsort()
        place_R = torch.searchsorted(who_G[order_G], owner_R)
        words, word_R = torch.unique(told_R, return_inverse=True)
        return Held(image_GE, text_RE, order_G[place_R] if len(order_G) else owner_R, word_R, len(words))

    def _second(self, asks: str, held: Held) -> Tensor:
        """The ranks after a second look at the nearest of each query."""
        most = min(self.rerank, len(held.image_GE if asks == "text" else held.text_RE))
        best = [held.near(rows, asks).topk(most, dim=1) for rows in held.chunks(asks)]
        near_QK, candidate_QK = torch.cat([one.values for one in best]), torch.cat([one.indices for one in best])
        query_QK = torch.arange(len(candidate_QK), device=candidate_QK.device)[:, None].expand_as(candidate_QK)
        text_P, image_P = (query_QK, candidate_QK) if asks == "text" else (candidate_QK, query_QK)
        judged_P = self._judged(text_P.flatten(), image_P.flatten())
        return ranks(held, asks, candidate_QK, near_QK + judged_P.view_as(near_QK))

    def _judged(self, text_P: Tensor, image_P: Tensor) -> Tensor:
        """The scores of pairs, each judged where its picture's tokens are."""
        place_G, ids_RT, length_R = _cat(self.place), _cat(self.ids), _cat(self.lengths)
        own_G = place_G == (dist.get_rank() if processes() > 1 else 0)
        local_G = own_G.cumsum(0) - 1
        tokens_GTD = torch.cat(self.tokens)
        score_P = torch.zeros(len(text_P), device=place_G.device)
        assert self.judge is not None
        for some in torch.split(own_G[image_P].nonzero()[:, 0], _AT_ONCE):
            words = Told(ids_RT[text_P[some]], length_R[text_P[some]])
            score_P[some] = self.judge(tokens_GTD[local_G[image_P[some]].cpu()].to(place_G.device), words).float()
        if processes() > 1:
            dist.all_reduce(score_P)
        return score_P


def _measured(text_R: Tensor, image_G: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, rank_Q in (("text_to_image", text_R), ("image_to_text", image_G)):
        found |= {f"{name}_r{k}": (rank_Q < k).float().mean() for k in RANKS}
    mean = torch.stack(list(found.values())).mean()
    for name, rank_Q in (("text_to_image", text_R), ("image_to_text", image_G)):
        found[f"{name}_median_rank"] = (rank_Q + 1).float().sort().values[(len(rank_Q) - 1) // 2]
    return found | {"recall_mean": mean}


def _joined(asking_Q: Tensor, key_P: Tensor, offered_P: Tensor, across: int) -> Tensor:
    """Bool ``[Q, across]``: whether a pair of that key and that offer is among the P pairs."""
    keys_U, row_Q = torch.unique(asking_Q, return_inverse=True)
    row_P = torch.searchsorted(keys_U, key_P).clamp(max=max(0, len(keys_U) - 1))
    hit_P = keys_U[row_P] == key_P
    there_UX = torch.zeros(len(keys_U), across, dtype=torch.bool, device=asking_Q.device)
    there_UX[row_P[hit_P], offered_P[hit_P]] = True
    return there_UX[row_Q]


def _cat(parts: Any) -> Tensor:
    """A list of rows, or what torchmetrics has made of it already."""
    return parts if isinstance(parts, Tensor) else torch.cat(parts)
