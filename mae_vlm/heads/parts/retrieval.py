"""Retrieval by cosine, both ways, where a picture may have any number of captions.

Letters: B pictures, S sentences, F features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

_CELLS = 1 << 24  # cosines that exist at one time: 64 MiB in float32


def recall(pictures_BF: Tensor, sentences_SF: Tensor, picture_of_S: Tensor, at: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Recall at k both ways, 0 to 1: ``sentences@k`` (a picture finds any of its own) and ``pictures@k`` (a sentence finds its picture).

    ``picture_of_S`` (int64) is the row of the picture that each sentence belongs to. A picture without a sentence is looked for among
    the others, but asks nothing itself. Ties count against: features that are all the same find nothing.

    Raises:
        ValueError: no sentence, or one of a picture that is not there.
    """
    if not len(picture_of_S) or int(picture_of_S.min()) < 0 or int(picture_of_S.max()) >= len(pictures_BF):
        raise ValueError(f"{len(picture_of_S)} sentences of {len(pictures_BF)} pictures given; each must belong to one of the pictures")
    pictures_BF, sentences_SF = _unit(pictures_BF), _unit(sentences_SF)
    rows_B = torch.arange(len(pictures_BF), device=pictures_BF.device)
    found_B = _places(pictures_BF, rows_B, sentences_SF, picture_of_S)[torch.unique(picture_of_S)]
    found_S = _places(sentences_SF, picture_of_S, pictures_BF, rows_B)
    named = (("sentences", found_B), ("pictures", found_S))
    return {f"{name}@{k}": float((places < k).float().mean()) for name, places in named for k in at}


def _places(asking_AF: Tensor, own_A: Tensor, offered_OF: Tensor, owner_O: Tensor) -> Tensor:
    """How many wrong answers come before (or with) the first right one, for each that asks; right is who has the same owner."""
    places = []
    for rows in torch.split(torch.arange(len(asking_AF), device=asking_AF.device), max(1, _CELLS // len(offered_OF))):
        cosine = asking_AF[rows] @ offered_OF.T
        right = own_A[rows, None] == owner_O
        best = cosine.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
        places.append(((cosine >= best) & ~right).sum(dim=1))
    return torch.cat(places)


def _unit(features_BF: Tensor) -> Tensor:
    return functional.normalize(features_BF.to(torch.promote_types(features_BF.dtype, torch.float32)))
