"""Contrast of pictures and texts over all processes, as pure functions: CLIP's softmax and SigLIP's sigmoid.

Letters: B pairs of one process, A pairs of all of them (and of the queue), E numbers of an embedding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mae_vlm.encoders.joint import Embedded
from mae_vlm.pairing.distillation import Trust, divergence
from mae_vlm.pairing.gather import gather
from mae_vlm.pairing.pairs import Pairs
from mae_vlm.pairing.queue import Queue


class Lesson(NamedTuple):
    """What a teacher says of the same pairs.

    Attributes:
        own: its embeddings of this process's pairs.
        everybodys: those of all processes.
        trust: how far it is believed; None: not at all, it is there for the queue alone.
        queue: its embeddings of the last steps, or None; with them, pairs are held against the teacher's embeddings, not each other's.
        who_B2: the identities of the pairs.
    """

    own: Embedded
    everybodys: Embedded
    trust: Trust | None
    queue: Queue | None
    who_B2: Tensor


def softmax_contrast(found: Embedded, told: Pairs, scale: Tensor, lesson: Lesson | None = None) -> Tensor:
    """The sum over this process's pairs of half the cross-entropy of each picture's caption among all, and half that of the reverse.

    As in CLIP (arXiv 2103.00020, figure 3), but what shows the same picture or says the same words is no negative, and a pair
    without a caption is none. ``scale`` is one over the temperature. With a ``lesson`` as in ALBEF (arXiv 2107.07651, equations 1 and 6).
    """
    own_BA = functional.one_hot(told.own_B, len(told.has_A)).bool()
    left_out_BA = (told.same_BA | ~told.has_A) & ~own_BA
    if lesson is None or lesson.queue is None:
        gallery = Embedded(gather(found.image_BE), gather(found.text_BE))
        taught = None if lesson is None else lesson.everybodys
    else:
        gallery = taught = lesson.queue.behind(lesson.everybodys)
        left_out_BA = torch.cat([left_out_BA, lesson.queue.left_out(lesson.who_B2)], dim=1)
    sums = []
    for one, other in ((0, 1), (1, 0)):
        scores_BA = _scores(found[one], gallery[other], scale, left_out_BA)
        loss_B = functional.cross_entropy(scores_BA, told.own_B, reduction="none")
        if lesson is not None and taught is not None and lesson.trust is not None:
            soft_BA = _scores(lesson.own[one], taught[other], scale.detach(), left_out_BA)
            loss_B = lesson.trust.mixed(loss_B, divergence(soft_BA, scores_BA))
        sums.append((loss_B * told.has_B).sum())
    return torch.stack(sums).mean()


def _scores(query_BE: Tensor, gallery_AE: Tensor, scale: Tensor, left_out_BA: Tensor) -> Tensor:
    return (scale.to(query_BE.dtype) * query_BE @ gallery_AE.T).masked_fill(left_out_BA, -torch.inf)


def sigmoid_contrast(found: Embedded, told: Pairs, scale: Tensor, bias: Tensor) -> Tensor:
    """The sum over this process's pictures and all captions of the loss of telling pairs from others, one by one.

    As in SigLIP (arXiv 2303.15343, algorithm 1), but what shows the same picture or says the same words counts neither way.
    """
    dtype = found.image_BE.dtype
    scores_BA = scale.to(dtype) * found.image_BE @ gather(found.text_BE).T + bias.to(dtype)
    own_BA = functional.one_hot(told.own_B, len(told.has_A)).bool()
    counts_BA = (own_BA | ~told.same_BA) & told.has_A & told.has_B[:, None]
    loss_BA = -functional.logsigmoid(torch.where(own_BA, scores_BA, -scores_BA))
    return (loss_BA * counts_BA).sum()
