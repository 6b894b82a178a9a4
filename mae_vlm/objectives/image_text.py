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
from mae_vlm.pairing.contrast import sigmoid_contrast, softmax_contrast
from mae_vlm.pairing.pairs import Pairs, identities, pairs
from mae_vlm.pairing.recall import Recall
from mae_vlm.types import Batch, Loss, Term


class _Contrast(Objective):
    """What both contrasts share: the space of both towers, the pairs, the recall.

    Validation logs ``text_to_image_r1`` and ``image_to_text_r1``: how often the nearest of all validation pictures (captions) is right.

    Args:
        towers, weight: see :class:`Objective`.
        width, view, pool: see :class:`mae_vlm.encoders.joint.Joint`.
    """

    contrasts: ClassVar[bool] = True

    def __init__(self, towers: Towers, weight: float = 1.0, width: int = 256, view: str = "full", pool: str = "mean") -> None:
        super().__init__(towers, weight)
        towers.join(width, view, pool)
        self.views = (view, "text")

    def forward(self, features: Features, batch: Batch) -> Loss:
        found, told = _embedded(features), pairs(features)
        with torch.autocast(found.image_BE.device.type, enabled=False):
            total = self.contrast(found, told)
        loss = Loss.of({"contrast": Term(total, told.has_B.sum().to(total.dtype))})
        return Loss(loss.value, loss.logs | {"scale": self.scale().detach()}, loss.terms)

    @abstractmethod
    def contrast(self, found: Embedded, told: Pairs) -> Tensor:
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
    """

    def __init__(self, towers: Towers, weight: float = 1.0, width: int = 256, view: str = "full", pool: str = "mean") -> None:
        super().__init__(towers, weight, width, view, pool)
        self.log_scale = nn.Parameter(torch.tensor([math.log(1 / 0.07)]))  # one number in a row: FSDP takes no scalars

    def scale(self) -> Tensor:
        return self.log_scale.exp().squeeze()

    def contrast(self, found: Embedded, told: Pairs) -> Tensor:
        return softmax_contrast(found, told, self.scale())

    def after_step(self) -> None:
        with torch.no_grad():
            self.log_scale.clamp_(0, math.log(100))


class SigmoidContrast(_Contrast):
    """Each picture with each caption alone, a pair or none: SigLIP's loss, averaged over pictures.

    Scale from 10 and bias from -10 are learned. See :func:`mae_vlm.pairing.contrast.sigmoid_contrast`.
    """

    def __init__(self, towers: Towers, weight: float = 1.0, width: int = 256, view: str = "full", pool: str = "mean") -> None:
        super().__init__(towers, weight, width, view, pool)
        self.log_scale = nn.Parameter(torch.tensor([math.log(10)]))
        self.bias = nn.Parameter(torch.tensor([-10.0]))

    def scale(self) -> Tensor:
        return self.log_scale.exp().squeeze()

    def contrast(self, found: Embedded, told: Pairs) -> Tensor:
        return sigmoid_contrast(found, told, self.scale(), self.bias)
