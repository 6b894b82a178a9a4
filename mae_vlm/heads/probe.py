"""What a frozen encoder's features tell a linear classifier: the linear probe of the literature.

Letters: B pictures, N tokens, D width, R rates, L classes.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric, MetricCollection

from mae_vlm.data.split import name_hash
from mae_vlm.data.summary import Summary
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.heads.base import Head
from mae_vlm.heads.parts.attentive_pool import AttentivePool
from mae_vlm.heads.parts.class_metrics import class_metrics, class_tables
from mae_vlm.heads.parts.class_names import check_classes
from mae_vlm.heads.parts.frozen_norm import FrozenNorm, summed
from mae_vlm.heads.parts.halves_knn import HalvesKnn
from mae_vlm.types import Answer, Batch, Loss, Prediction, Term

POOLINGS = ("mean", "class_token", "attention")
_TENTH = 10  # of the training pictures, one in so many chooses the rate
_TERM = "cross_entropy"


class Probe(Head):
    """Features of a frozen encoder, batch normalisation without weights, one linear layer (He et al. 2021, appendix A.1).

    It needs ``model.freeze all``. ``val/knn`` is what the same features tell by nearest neighbours, each half of the validation pictures
    answered by the other. The normalisation goes over the pictures of all processes (:class:`FrozenNorm`).

    With ``rates`` a layer for each learns beside the others from the same features, at that multiple of the optimizer's rate (DINOv2's
    protocol, arXiv 2304.07193, appendix B.3). Which of them answers is not chosen by the validation pictures: a tenth of the training
    pictures, by a hash of their names, is learned by none, and the layer answers that is right most often on them, as they come along in
    training; what is longer ago than a tenth of the run hardly counts. ``val/rate`` is its multiple, ``val/held_top1`` its share.
    The number to report is that of the run's last validation, not the best of several.

    The answer's tensors: ``logits`` ``[B, L]`` of the layer that answers, ``all`` ``[B, R, L]``, ``features`` ``[B, D]``.

    Args:
        towers, weight: see :class:`Head`.
        classes: their names in label order, or how many. The CLI takes them from the data.
        block: after which of the encoder's blocks, from 0, features are taken, without a norm; None: after the last and the final norm.
        pooling: mean of the patch tokens; class_token, or the mean of several, as in the paper; or attention, of one learned query, which
            comes after the batch normalisation.
        rates: multiples of the optimizer's rate, one layer for each; None for one layer that learns from all pictures.
        knn: measure nearest neighbours.

    Raises:
        ValueError: an option out of its range, or a class token that the encoder has not.
    """

    learns: ClassVar[str] = "classes"
    tally: Tensor
    rates: Tensor
    counted_at: Tensor

    def __init__(
        self,
        towers: Towers,
        weight: float = 1.0,
        classes: int | list[str] | None = None,
        block: int | None = None,
        pooling: str = "mean",
        rates: list[float] | None = None,
        knn: bool = True,
    ) -> None:
        super().__init__(towers, weight)
        encoder = towers.image
        count = len(classes) if isinstance(classes, list) else classes
        _check(count, block, len(encoder.vit.blocks), pooling, encoder.class_tokens, rates)
        assert count is not None
        self.names, self.classes = classes if isinstance(classes, list) else None, count
        self.pooling, self.knn, self.class_tokens = pooling, knn, encoder.class_tokens
        self.block, self.held_blocks = block, len(encoder.vit.blocks) - (block or 0)
        self.norm = FrozenNorm(encoder.width)
        heads = int(encoder.vit.blocks[0].attn.num_heads) if pooling == "attention" else 0
        self.layers = nn.ModuleList(Layer(encoder.width, count, heads, rate) for rate in rates or [1.0])
        self.register_buffer("rates", torch.tensor(rates or [1.0]), persistent=False)
        self.register_buffer("tally", torch.zeros(len(self.layers) + 1))  # right answers of each layer on the tenth, and its pictures
        self.register_buffer("counted_at", torch.zeros(()))
        self.best = ("top1", True)

    def check(self, summary: Summary) -> None:
        if summary.several:
            where = summary.path or "the collection"
            raise ValueError(f"pictures of {where} have several classes each, a probe learns one; take Classify with loss binary")
        check_classes(summary, self.names, self.classes)

    def forward(self, features: Features) -> Answer:
        tokens_BND = self._tokens(features)
        if tokens_BND.requires_grad:
            raise ValueError("a probe tells what a frozen encoder's features hold, and this one learns; set model.freeze all")
        if self.pooling == "attention":
            inputs = self.norm(tokens_BND)
            pooled_BD = inputs.mean(dim=1)
        else:
            inputs = pooled_BD = self.norm(tokens_BND.mean(dim=1))
        logits_BRL = torch.stack([layer(inputs) for layer in self.layers], dim=1)
        return Answer({"logits": logits_BRL.index_select(1, self._chosen)[:, 0], "all": logits_BRL, "features": pooled_BD})

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {_TERM: self._known_B(batch).sum().float()}

    def loss(self, answer: Answer, batch: Batch) -> Loss:
        """In training the sum over the layers, none of which feels the others; its logged mean is over them too."""
        known_B, labels_B = self._known_B(batch), batch.labels_B.clamp(min=0)
        logits_BRL = answer["all"].float() if self.training else answer["logits"].float()[:, None]
        if self.training and self._chooses:
            self._tell(logits_BRL, batch)
        layers = logits_BRL.shape[1]
        error_BR = functional.cross_entropy(logits_BRL.flatten(0, 1), labels_B.repeat_interleave(layers), reduction="none")
        error_B = error_BR.view(-1, layers).mean(dim=1)
        return Loss.of({_TERM: Term((error_B * known_B).sum(), known_B.sum().float(), weight=float(layers))})

    def metrics(self) -> MetricCollection:
        found = class_metrics(self.classes)
        if self.knn:
            found.add_metrics({"knn": HalvesKnn()})
        if self._chooses:
            found.add_metrics({"rate": MeanMetric(), "held_top1": MeanMetric()})
        return found

    def measure(self, metrics: MetricCollection, answer: Answer, batch: Batch) -> None:
        labels_B = batch.labels_B.masked_fill(~batch.real_B, -1)
        half_B = torch.tensor([name_hash(id) & 1 for id in batch.ids], device=labels_B.device)
        given = {
            "knn": (answer["features"], labels_B, half_B),
            "rate": (self.rates[self._chosen],),
            "held_top1": (self.tally[self._chosen] / self.tally[-1].clamp(min=1e-9),),
        }
        scores_BL = answer["logits"].float().softmax(dim=1)
        for name, metric in metrics.items():
            metric.update(*given.get(name, (scores_BL, labels_B)))

    def predictions(self, answer: Answer, batch: Batch) -> list[Prediction]:
        scores_BL, real = answer["logits"].float().softmax(dim=1).cpu(), batch.real_B.tolist()
        return [Prediction(id, scores_L) for id, scores_L, keep in zip(batch.ids, scores_BL, real, strict=True) if keep]

    def tables(self, results: dict[str, Tensor]) -> dict[str, list[list[str]]]:
        return class_tables(results, self.names or [str(number) for number in range(self.classes)])

    @property
    def _chooses(self) -> bool:
        return len(self.layers) > 1

    @property
    def _chosen(self) -> Tensor:
        """``[1]``: the layer that answers; the first of equals. Stays on the device."""
        return self.tally[:-1].argmax(dim=0, keepdim=True)

    def _tokens(self, features: Features) -> Tensor:
        """``[B, N, D]``: the tokens to be pooled."""
        if self.block is None:
            seen = features.full
            return seen.prefix_BTD[:, : self.class_tokens] if self.pooling == "class_token" else seen.patches_BND
        if self.pooling != "class_token":
            return features.maps((self.block,))[0].flatten(2).transpose(1, 2)
        before = features.held(self.held_blocks)
        tokens_BTD: Tensor = before.blocks[0](before.tokens_BTD)
        return tokens_BTD[:, : self.class_tokens]

    def _known_B(self, batch: Batch) -> Tensor:
        """Whose label is known and counts; in training, where a rate is to be chosen, not those that choose it."""
        known_B = (batch.labels_B >= 0) & batch.real_B
        return known_B & ~_tenth(batch) if self.training and self._chooses else known_B

    @torch.no_grad()
    def _tell(self, logits_BRL: Tensor, batch: Batch) -> None:
        """Count the layers' right answers on the tenth, on all processes; earlier ones fade by a factor e in a tenth of the run."""
        held_B = _tenth(batch) & (batch.labels_B >= 0) & batch.real_B
        right_BR = (logits_BRL.argmax(dim=-1) == batch.labels_B[:, None]) & held_B[:, None]
        told = summed(torch.cat([right_BR.sum(0), held_B.sum()[None]]).float())
        self.tally.mul_(torch.exp(10 * (self.counted_at - self.progress))).add_(told)
        self.counted_at.fill_(self.progress)


class Layer(nn.Module):
    """One linear layer, behind a pooling of its own where tokens come in; ``lr_scale`` is its multiple of the optimizer's rate."""

    def __init__(self, width: int, classes: int, heads: int, rate: float) -> None:
        super().__init__()
        self.lr_scale = float(rate)
        self.pool = AttentivePool(width, heads) if heads else nn.Identity()
        self.linear = nn.Linear(width, classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        logits_BL: Tensor = self.linear(self.pool(inputs))
        return logits_BL


def _tenth(batch: Batch) -> Tensor:
    return torch.tensor([name_hash(id) % _TENTH == 0 for id in batch.ids], device=batch.labels_B.device)


def _check(classes: int | None, block: int | None, depth: int, pooling: str, tokens: int, rates: list[float] | None) -> None:
    if classes is None or classes < 2:
        raise ValueError(f"classes {classes} given, a probe needs two or more; the command line takes them from labelled data")
    if block is not None and not 0 <= block < depth:
        raise ValueError(f"block {block} given, the encoder's blocks are numbered 0 to {depth - 1}; leave it out for the final norm")
    if pooling not in POOLINGS:
        raise ValueError(f"pooling {pooling!r} given, allowed are {', '.join(POOLINGS)}")
    if pooling == "class_token" and not tokens:
        raise ValueError("pooling class_token given, and the encoder has no class token; use mean or attention")
    if rates is not None and (not rates or min(rates) <= 0 or len(set(rates)) < len(rates)):
        raise ValueError(f"rates {rates} must be multiples of the optimizer's rate, each more than 0 and given once, as [0.1, 1, 10]")
