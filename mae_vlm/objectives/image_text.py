"""Contrast of pictures and their captions: CLIP's softmax and SigLIP's sigmoid.

Letters: B pairs of one process, A pairs of all of them, E numbers of an embedding.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from mae_vlm.encoders.features import Features
from mae_vlm.encoders.joint import Embedded
from mae_vlm.encoders.towers import Towers
from mae_vlm.objectives.base import Objective
from mae_vlm.pairing.contrast import Lesson, sigmoid_contrast, softmax_contrast
from mae_vlm.pairing.distillation import Trust
from mae_vlm.pairing.gather import gather
from mae_vlm.pairing.pairs import Pairs, identities, pairs
from mae_vlm.pairing.queue import Queue
from mae_vlm.pairing.recall import Recall
from mae_vlm.types import Batch, Loss, Term


class _Contrast(Objective):
    """What both contrasts share: the space of both towers, the pairs, the recall.

    Validation logs ``text_to_image_r1`` and ``image_to_text_r1``: how often the nearest of all validation pictures (captions) is right.

    Args:
        towers, weight: see :class:`Objective`.
        width, view, pool, image_queries: see :class:`mae_vlm.encoders.joint.Joint`.
    """

    contrasts: ClassVar[bool] = True

    def __init__(
        self, towers: Towers, weight: float = 1.0, width: int = 256, view: str = "full", pool: str = "mean", image_queries: int = 0
    ) -> None:
        super().__init__(towers, weight)
        towers.join(width, view, pool, image_queries)
        self.views = (view, "text")

    def forward(self, features: Features, batch: Batch) -> Loss:
        found, told = _embedded(features), pairs(features)
        with torch.autocast(found.image_BE.device.type, enabled=False):
            total = self.contrast(found, told, features)
        loss = Loss.of({"contrast": Term(total, told.has_B.sum().to(total.dtype))})
        return Loss(loss.value, loss.logs | {"scale": self.scale().detach()}, loss.terms)

    @abstractmethod
    def contrast(self, found: Embedded, told: Pairs, features: Features) -> Tensor:
        """The sum of the losses of this process's own pairs."""

    @abstractmethod
    def scale(self) -> Tensor:
        """What similarities are multiplied with: one over the temperature."""

    def counts(self, features: Features) -> dict[str, Tensor]:
        return {"contrast": features.words.has_B.sum()}

    def metrics(self) -> MetricCollection:
        return MetricCollection({"recall": Recall()})

    def measure(self, metrics: MetricCollection, features: Features) -> None:
        image_BE, text_BE = _embedded(features)
        metrics.update(image_BE, text_BE, identities(features).to(image_BE.device), features.words.has_B)


def _embedded(features: Features) -> Embedded:
    found = features.embedded
    assert found is not None
    return found


class SoftmaxContrast(_Contrast):
    """Each picture's caption among all captions, and each caption's picture among all pictures: CLIP's loss.

    The scale is learned, from 1 / .07, and kept from 1 to 100. See :func:`mae_vlm.pairing.contrast.softmax_contrast`.

    With ``alpha`` or a ``queue`` it learns from the towers' moving average (``model.teacher``, .995 in ALBEF, arXiv 2107.07651). Momentum
    distillation (section 3.4): what the teacher holds for likely is a soft truth beside the hard one, since captions of the web say
    little of their picture and suit others too. The queue (section 3.2): pairs are held against the teacher's embeddings, of this batch and
    of the last steps, not against each other's: many negatives without a large batch. Validation tells CLIP's loss, with or without them.

    Args:
        towers, weight, width, view, pool, image_queries: see above.
        alpha: weight of the teacher's answers, .4 in ALBEF; the truth keeps the rest. 0 distils nothing.
        ramp: optimizer steps over which ``alpha`` grows from 0, in ALBEF those of the first epoch.
        queue: pairs kept of earlier steps, 65,536 in ALBEF; 0 is none.

    Raises:
        ValueError: an option out of its range.
    """

    def __init__(
        self,
        towers: Towers,
        weight: float = 1.0,
        width: int = 256,
        view: str = "full",
        pool: str = "mean",
        alpha: float = 0.0,
        ramp: int = 1000,
        queue: int = 0,
        image_queries: int = 0,
    ) -> None:
        super().__init__(towers, weight, width, view, pool, image_queries)
        if queue < 0:
            raise ValueError(f"queue {queue} given, allowed is 0 (none) or more pairs that it keeps")
        self.log_scale = nn.Parameter(torch.tensor([math.log(1 / 0.07)]))  # one number in a row: FSDP takes no scalars
        trust = Trust(alpha, ramp)
        self.trust = trust if alpha else None
        self.queue = Queue(queue, width) if queue else None
        self.views = (view, "text", "teacher") if alpha or queue else (view, "text")
        self._fresh: tuple[Embedded, Tensor, Tensor] | None = None

    def scale(self) -> Tensor:
        return self.log_scale.exp().squeeze()

    def contrast(self, found: Embedded, told: Pairs, features: Features) -> Tensor:
        return softmax_contrast(found, told, self.scale(), self._lesson(features, told))

    @torch.no_grad()
    def _lesson(self, features: Features, told: Pairs) -> Lesson | None:
        """What the teacher says of the batch, in training."""
        if not self.training or "teacher" not in self.views:
            return None
        who_B2 = identities(features).to(told.has_B.device)
        own = _embedded(features.teacher())
        everybodys = Embedded(gather(own.image_BE), gather(own.text_BE))
        if self.queue is not None:
            self._fresh = (everybodys, gather(who_B2), told.has_A)
        return Lesson(own, everybodys, self.trust, self.queue, who_B2)

    def after_step(self) -> None:
        with torch.no_grad():
            self.log_scale.clamp_(0, math.log(100))
        if self.trust is not None:
            self.trust.step()
        if self.queue is not None and self._fresh is not None:
            self.queue.push(*self._fresh)
            self._fresh = None


class SigmoidContrast(_Contrast):
    """Each picture with each caption alone, a pair or none: SigLIP's loss, averaged over pictures.

    Scale from 10 and bias from -10 are learned. See :func:`mae_vlm.pairing.contrast.sigmoid_contrast`.
    """

    def __init__(
        self, towers: Towers, weight: float = 1.0, width: int = 256, view: str = "full", pool: str = "mean", image_queries: int = 0
    ) -> None:
        super().__init__(towers, weight, width, view, pool, image_queries)
        self.log_scale = nn.Parameter(torch.tensor([math.log(10)]))
        self.bias = nn.Parameter(torch.tensor([-10.0]))

    def scale(self) -> Tensor:
        return self.log_scale.exp().squeeze()

    def contrast(self, found: Embedded, told: Pairs, features: Features) -> Tensor:
        return sigmoid_contrast(found, told, self.scale(), self.bias)
