"""Which pictures and captions of a batch belong together, over all processes.

Letters: B pairs of one process, A pairs of all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mae_vlm.data.split import name_hash
from mae_vlm.encoders.features import Features
from mae_vlm.pairing.gather import first_row, gather


@dataclass(frozen=True)
class Pairs:
    """The pairs of a batch.

    Attributes:
        own_B: where this process's pairs stand among all, int64.
        has_B, has_A: whether there is a caption; a pair without one is none.
        same_BA: whether picture or caption is the same one as here: no negative of each other.
    """

    own_B: Tensor
    has_B: Tensor
    has_A: Tensor
    same_BA: Tensor


def identities(features: Features) -> Tensor:
    """For each pair two numbers ``[B, 2]`` (int64) that stand for its picture and its caption."""
    return named(features.batch.ids, features.texts)


def named(ids: Sequence[str], texts: Sequence[str | None]) -> Tensor:
    """The same of pictures and captions by name: int64 ``[B, 2]``."""
    return torch.stack([hashed(ids), hashed(text or "" for text in texts)], dim=1)


def hashed(names: Iterable[str]) -> Tensor:
    """A number for each name, int64, the same for the same one."""
    return torch.tensor([_signed(name_hash(name)) for name in names], dtype=torch.int64)


def pictures(features: Features) -> Tensor:
    """A number for each picture ``[B]`` (int64), the same for the same one."""
    return hashed(features.batch.ids).to(features.batch.keys_B.device)


def pairs(features: Features) -> Pairs:
    """The pairs of this batch among those of all processes; all processes must ask."""
    has_B = features.words.has_B
    return features.once("pairs", lambda: gathered(identities(features).to(has_B.device), has_B))


def gathered(who_B2: Tensor, has_B: Tensor) -> Pairs:
    """Pairs by the numbers of their pictures and captions, and whether they have one; all processes must ask, with as many."""
    who_A2, has_A = gather(who_B2), gather(has_B)
    same_BA = (who_B2[:, None] == who_A2[None]).any(-1)
    own_B = torch.arange(len(has_B), device=has_B.device) + first_row(len(has_B))
    return Pairs(own_B, has_B, has_A, same_BA)


def _signed(word: int) -> int:
    """64 bits as torch holds them."""
    return word - (1 << 64) if word >> 63 else word
