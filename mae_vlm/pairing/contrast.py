"""Contrast of pictures and texts over all processes, as pure functions: CLIP's softmax and SigLIP's sigmoid.

Letters: B pairs of one process, A pairs of all of them, E numbers of an embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mae_vlm.encoders.joint import Embedded
from mae_vlm.pairing.gather import gather
from mae_vlm.pairing.pairs import Pairs


def softmax_contrast(found: Embedded, told: Pairs, scale: Tensor) -> Tensor:
    """The sum over this process's pairs of half the cross-entropy of each picture's caption among all, and half that of the reverse.

    As in CLIP (arXiv 2103.00020, figure 3), but what shows the same picture or says the same words is no negative, and a pair
    without a caption is none. ``scale`` is one over the temperature.
    """
    own_BA = functional.one_hot(told.own_B, len(told.has_A)).bool()
    left_out_BA = (told.same_BA | ~told.has_A) & ~own_BA
    sums = []
    for query_BE, gallery_AE in ((found.image_BE, gather(found.text_BE)), (found.text_BE, gather(found.image_BE))):
        scores_BA = (scale.to(query_BE.dtype) * query_BE @ gallery_AE.T).masked_fill(left_out_BA, -torch.inf)
        loss_B = functional.cross_entropy(scores_BA, told.own_B, reduction="none")
        sums.append((loss_B * told.has_B).sum())
    return torch.stack(sums).mean()


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
