"""The contract of a head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn
from torchmetrics import MetricCollection

from mae_vlm.data.summary import Summary
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.types import Answer, Batch, Loss, Prediction


class Head(nn.Module, ABC):
    """One task on top of the encoder. Owns its own weights; reads sizes from the towers when built, keeps no reference to them, never logs.

    Its loss is a sum of means over what it counts: labelled pictures, boxes, pixels. :meth:`counts` tells from the targets alone how many
    those are in a batch, before anything is computed; the learner adds the counts of all processes and accumulated batches and divides by
    that, so that each item weighs the same wherever it is.

    Attributes:
        wants: what ``Batch.targets`` must hold for it: of boxes, masks and semantic (``mae_vlm.data.targets``).
        learns: whose names it needs as ``classes``: classes, object_classes or semantic_classes of the data's summary, or
            answers, which are looked for in its questions; empty for none.
        normed: whether it looks at the encoder's final norm; one that no head looks at is not trained.
        views: the passes of ``Features`` that it looks through: of ``full`` pictures, ``text`` and ``fused``.
        contrasts: whether it holds the pictures of a batch against each other: accumulating batches would not give it more to compare.
        embeds: whether its answer is where a picture lies, for ``features_*.parquet``.
        windowed: whether it takes pictures larger than the encoder's (``data.val_size``), outside of training.
        mixes: whether :meth:`prepare` changes pictures, which no other head could then learn from.
        best: the metric by which the best checkpoint is kept, and whether higher is better.
        progress: how much of the training is over, 0 to 1; the learner sets it before each step.

    Args:
        towers: the encoders it will see through ``Features``.
        weight: factor of its loss in the sum over heads, at least 0.

    Raises:
        ValueError: a negative weight.
    """

    learns: ClassVar[str] = ""
    normed: ClassVar[bool] = True
    views: ClassVar[tuple[str, ...]] = ("full",)
    contrasts: ClassVar[bool] = False
    embeds: ClassVar[bool] = False
    windowed: ClassVar[bool] = False
    best: tuple[str, bool]

    def __init__(self, towers: Towers, weight: float = 1.0) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f"head weight {weight} given, allowed is 0 or more")
        self.weight = weight
        self.progress = 0.0

    @property
    def wants(self) -> frozenset[str]:
        return frozenset()

    @classmethod
    def learned(cls, options: dict[str, Any]) -> str:
        """What it ``learns`` when built with these options."""
        return cls.learns

    @classmethod
    def looks(cls, options: dict[str, Any]) -> tuple[str, ...]:
        """Its ``views`` when built with these options."""
        return cls.views

    @property
    def mixes(self) -> bool:
        return False

    def check(self, summary: Summary) -> None:
        """Tell before the run what the collection lacks.

        Raises:
            ValueError: it has no such targets, or other classes.
        """

    def prepare(self, batch: Batch) -> Batch:
        """The training batch as this head wants it, before any tower sees it; chance comes from ``batch.keys_B`` alone."""
        return batch

    def after_step(self) -> None:
        """Called after each optimizer step, for weights that must stay within bounds."""

    @abstractmethod
    def forward(self, features: Features) -> Answer:
        """The answer to one batch. What runs must not depend on the data, only on the config."""

    @abstractmethod
    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """For each term of the loss, how many items of this batch it is a mean over: scalars, 0 where nothing is known."""

    @abstractmethod
    def loss(self, answer: Answer, batch: Batch) -> Loss:
        """The loss, made by ``Loss.of``: a term under each name of :meth:`counts`, with that count; padding counts zero.

        Finite, and with a gradient for every weight, also where a batch has no target at all.
        """

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """What validation measures, fresh; scalars are logged, and whatever is a table or a curve goes to files."""

    @abstractmethod
    def measure(self, metrics: MetricCollection, answer: Answer, batch: Batch) -> None:
        """Add a batch to the metrics; padding counts zero."""

    @abstractmethod
    def predictions(self, answer: Answer, batch: Batch) -> list[Prediction]:
        """What it says of each real picture of the batch, in the pixels of the original file."""

    def tables(self, results: dict[str, Tensor]) -> dict[str, list[list[str]]]:
        """Results that are not scalars as tables, the first row the header; none by default."""
        return {}

    def pictures(self, answer: Answer, batch: Batch) -> dict[str, Tensor]:
        """What it says drawn on the pictures of a batch beside what is true: names to float ``[C, H, W]`` in [0, 1]; none by default."""
        return {}
