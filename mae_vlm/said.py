"""What objectives and heads return: a loss as sums and counts, an answer, and what is said of a picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Term:
    """One term of a head's loss as a sum, not yet a mean, and what it is a sum over.

    ``sum`` (scalar) is over ``count`` (scalar, float) pictures, boxes or pixels of this batch; a batch with none has 0 and 0, still with
    a gradient. The loss of an optimizer step is ``weight`` times all sums over all counts, of all processes and accumulated batches:
    a mean of means would let a label weigh more where there are few of them.
    """

    sum: Tensor
    count: Tensor
    weight: float = 1.0

    def mean(self, count: Tensor | None = None) -> Tensor:
        """The sum over ``count``, its own unless another is given; 0 where there is nothing to count."""
        count = self.count if count is None else count
        return self.sum / torch.where(count > 0, count, torch.ones_like(count))


@dataclass(frozen=True)
class Loss:
    """What an objective or a head returns: a scalar to minimise and the named terms worth logging (detached scalars).

    An objective's are means over the batch's pictures, in validation over the real ones. A head's are over what it counts in
    this batch, and ``terms`` hold the same as sums, for a step that is made of several batches.
    """

    value: Tensor
    logs: dict[str, Tensor] = field(default_factory=dict)
    terms: dict[str, Term] = field(default_factory=dict)

    @classmethod
    def of(cls, terms: dict[str, Term]) -> Loss:
        """The loss of this batch alone."""
        means = {name: term.mean() for name, term in terms.items()}
        value = torch.stack([terms[name].weight * mean for name, mean in means.items()]).sum()
        return cls(value, {name: mean.detach() for name, mean in means.items()}, terms)


@dataclass(frozen=True)
class Answer:
    """What a head makes of a batch, as its loss wants it: tensors by name, the pictures first in each (see the head's own page)."""

    tensors: dict[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]


class Said(NamedTuple):
    """What a head says of a picture in words: a caption, or the answer to a question; ``score`` from 0 to 1."""

    text: str
    score: float
    question: str = ""


@dataclass(frozen=True)
class Prediction:
    """What a head says of one picture, on the CPU; positions are in pixels of the original picture as it is shown.

    Attributes:
        scores: float32 ``[classes]``: of the whole picture, from 0 to 1; of a regression, its values.
        boxes: float32 ``[objects, 4]``: left, top, right, bottom, the last two exclusive.
        object_scores: float32 ``[objects]``, the highest first; of ``boxes``, ``masks`` or both. Of ``segments`` in their order.
        object_classes: int64 ``[objects]``.
        masks: bool ``[objects, H, W]``.
        semantic: uint8 or int16 ``[H, W]``: a class for every pixel.
        segments: int32 ``[H, W]``: 0 where there is nothing, k for object k - 1; none overlap.
        said: captions, the best first, or an answer to each question.
        embedding: float32 ``[numbers]``: where the picture lies in a space that it shares with texts.
    """

    id: str
    scores: Tensor | None = None
    boxes: Tensor | None = None
    object_scores: Tensor | None = None
    object_classes: Tensor | None = None
    masks: Tensor | None = None
    semantic: Tensor | None = None
    segments: Tensor | None = None
    said: tuple[Said, ...] | None = None
    embedding: Tensor | None = None
