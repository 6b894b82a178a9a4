"""Which picture belongs to these words, and which words to this picture.

Letters: B pictures, R texts, one below the other, T tokens, E numbers of an embedding, K pairs that are judged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MetricCollection

from mae_vlm.data.summary import Summary
from mae_vlm.encoders.features import Features, chosen_captions
from mae_vlm.encoders.joint import Embedded
from mae_vlm.encoders.passes import Held
from mae_vlm.encoders.text.base import TextRows
from mae_vlm.encoders.towers import Towers
from mae_vlm.heads.base import Head
from mae_vlm.heads.parts.retrieved_drawing import retrieved_sheet
from mae_vlm.pairing import matched
from mae_vlm.pairing.contrast import softmax_contrast
from mae_vlm.pairing.pairs import Pairs, gathered, hashed, named
from mae_vlm.pairing.retrieval import Judge, Retrieval, Told
from mae_vlm.tokens.words import Words
from mae_vlm.types import Answer, Batch, Encoded, Loss, Prediction, Term

_AT_ONCE = 1024  # texts that are read at one time outside of training


@dataclass(frozen=True)
class Found(Answer):
    """The tensors of :class:`Retrieve`, and outside of training what takes a second look at pairs."""

    judge: Judge | None = None


class Retrieve(Head):
    """Pictures and texts in the space that they share, by CLIP's contrast over all processes; see :func:`softmax_contrast`.

    The scale is learned, from 1 / .07, and kept from 1 to 100. Validation looks for all captions of all pictures both ways:
    ``text_to_image_r1``, ``_r5``, ``_r10`` and ``_median_rank``, the same of ``image_to_text``, and ``recall_mean`` (:class:`Retrieval`).

    With ``rerank`` a layer on the fused feature learns to tell right pairs from wrong ones (:func:`mae_vlm.pairing.matched.matched`), and
    the first so many of each query come in the order of its logit plus the similarity: ALBEF's second stage (arXiv 2107.07651, 5.2).
    It takes a fusion tower, and a pass of it for each of them.

    The answer's tensors: ``image``, ``text`` ``[B, E]`` of one caption of each picture, ``who`` ``[B, 2]`` and ``has`` ``[B]``;
    in training with ``rerank`` ``logits`` ``[3B, 2]``, ``right`` and ``counts``; outside of it ``texts`` ``[R, E]`` of all captions,
    ``picture``, ``said`` ``[R]``, and with ``rerank`` ``tokens`` ``[B, T, D]`` of the pictures, ``ids`` and ``lengths`` of the texts.

    Args:
        towers, weight: see :class:`Head`.
        width, pool, image_queries: of the space, see :class:`mae_vlm.encoders.joint.Joint`. The CLI takes them from ``model.weights``.
        rerank: how many of each query take a second look; 0 for none.
        hardness: what similarities are multiplied with to draw wrong pairs: higher draws harder ones, 0 evenly.

    Raises:
        ValueError: a tower is missing, or an option out of its range.
    """

    views: ClassVar[tuple[str, ...]] = ("full", "text")
    contrasts: ClassVar[bool] = True
    embeds: ClassVar[bool] = True
    best = ("recall_mean", True)

    def __init__(
        self,
        towers: Towers,
        weight: float = 1.0,
        width: int | None = None,
        pool: str | None = None,
        rerank: int = 0,
        hardness: float = 14.3,
        image_queries: int | None = None,
    ) -> None:
        super().__init__(towers, weight)
        if rerank < 0 or hardness < 0 or (width is not None and width < 1):
            raise ValueError(f"width {width}, rerank {rerank}, hardness {hardness} given, allowed are 1 and more, and 0 and more")
        towers.join(width or 256, "full", pool or "mean", image_queries or 0)
        self.log_scale = nn.Parameter(torch.tensor([math.log(1 / 0.07)]))  # one number in a row: FSDP takes no scalars
        self.rerank, self.hardness = rerank, hardness
        self.longest = matched.Longest.of(towers.told_text())
        self.match = matched.telling(towers.told_fusion().width) if rerank else None

    @classmethod
    def looks(cls, options: dict[str, Any]) -> tuple[str, ...]:
        return (*cls.views, "fused") if options.get("rerank") else cls.views

    def check(self, summary: Summary) -> None:
        if "captions" not in summary.known:
            raise ValueError(f"{summary.path or 'the collection'} has no captions; name data.caption_column or data.annotations")

    def after_step(self) -> None:
        with torch.no_grad():
            self.log_scale.clamp_(0, math.log(100))

    # -- training

    def forward(self, features: Features) -> Answer:
        return self._learned(features) if self.training else self._looked_for(features)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        texts = chosen_captions(batch, self.training)
        has_B = torch.tensor([bool(text) for text in texts], device=batch.keys_B.device)
        if self.match is None or not self.training:
            return {"contrast": has_B.sum().float()}
        told = gathered(named(batch.ids, texts).to(has_B.device), has_B)
        return {"contrast": has_B.sum().float(), "matching": matched.count(told).float()}

    def loss(self, answer: Answer, batch: Batch) -> Loss:
        """Outside of training of the first captions; ``matching`` is a term of training alone."""
        told = gathered(answer["who"], answer["has"])
        found = Embedded(answer["image"], answer["text"])
        with torch.autocast(found.image_BE.device.type, enabled=False):
            total = softmax_contrast(found, told, self.log_scale.exp())
        terms = {"contrast": Term(total, answer["has"].sum().to(total.dtype))}
        if "logits" in answer.tensors:
            loss_R = functional.cross_entropy(answer["logits"], answer["right"], reduction="none")
            terms["matching"] = Term((loss_R * answer["counts"]).sum(), answer["counts"].sum().to(loss_R.dtype))
        return Loss.of(terms)

    def _learned(self, features: Features) -> Answer:
        found, has_B = features.embedded, features.words.has_B
        assert found is not None
        who_B2 = named(features.batch.ids, features.texts).to(has_B.device)
        tensors = {"image": found.image_BE, "text": found.text_BE, "who": who_B2, "has": has_B}
        if self.match is not None:
            told: Pairs = features.once("pairs", lambda: gathered(who_B2, has_B))
            judged = matched.matched(features, told, self.match, self.hardness, self.longest)
            tensors |= {"logits": judged.logits_R2, "right": judged.right_R, "counts": judged.counts_R}
        return Found(tensors)

    # -- looking for

    def _looked_for(self, features: Features) -> Answer:
        """All captions of each real picture; no process waits for another here, since ``predict`` may skip a batch on some."""
        batch, texts = features.batch, _captions(features.batch)
        rows = features.rows(texts)
        parts = torch.split(torch.arange(len(rows.words), device=rows.picture_R.device), _AT_ONCE)
        text_RE = torch.cat([features.placed(features.read(rows.words.rows(some))) for some in parts])
        image_BE = features.placed_images
        first_B = torch.searchsorted(rows.picture_R, torch.arange(len(batch), device=rows.picture_R.device)).clamp(max=len(text_RE) - 1)
        has_B = torch.tensor([bool(some) for some in texts], device=first_B.device)
        who_B2 = named(batch.ids, [some[0] if some else None for some in texts]).to(first_B.device)
        said_R = hashed([text for some in texts for text in some] or [""]).to(first_B.device)
        tensors = {"image": image_BE, "text": text_RE[first_B], "who": who_B2, "has": has_B}
        tensors |= {"texts": text_RE, "picture": rows.picture_R, "said": said_R}
        if self.match is None:
            return Found(tensors)
        return Found(tensors | self._kept(features, rows), self._judging(features))

    def _kept(self, features: Features, rows: TextRows) -> dict[str, Tensor]:
        """What a second look needs of the batch."""
        words = rows.words.padded(*self.longest)
        return {"tokens": features.seen.tokens_BTD, "ids": words.ids_BT, "lengths": words.real_BT.sum(1)}

    def _judging(self, features: Features) -> Judge:
        apart, seen, match = features.apart(), features.seen, self.match
        empty = Encoded(seen.tokens_BTD[:0], seen.prefix) if isinstance(seen, Encoded) else seen.rows(torch.arange(0))
        assert match is not None
        dtype = match.weight.dtype

        @torch.no_grad()
        def judge(tokens_KTD: Tensor, told: Told) -> Tensor:
            across = int(told.length_K.max())
            ids_KT = told.ids_KT[:, :across]
            real_KT = torch.arange(across, device=ids_KT.device) < told.length_K[:, None]
            words = Words(ids_KT, real_KT, torch.full_like(ids_KT, -1), real_KT.any(1))
            image: Encoded | Held = replace(empty, tokens_BTD=tokens_KTD.to(dtype))
            logits_K2: Tensor = match(apart.fuse(apart.read(words), image).pooled_BD)
            return logits_K2[:, 1]

        return judge

    def metrics(self) -> MetricCollection:
        return MetricCollection({"retrieval": Retrieval(self.rerank)})

    def measure(self, metrics: MetricCollection, answer: Answer, batch: Batch) -> None:
        real_B, who_B = batch.real_B, answer["who"][:, 0]
        count = sum(map(len, _captions(batch)))  # where there is none, a row stands there all the same
        given = [answer["image"][real_B], who_B[real_B], answer["texts"][:count], who_B[answer["picture"][:count]], answer["said"][:count]]
        if self.rerank:
            assert isinstance(answer, Found)
            words = Told(answer["ids"][:count], answer["lengths"][:count])
            metrics.update(*given, answer["tokens"][real_B], words, answer.judge)
        else:
            metrics.update(*given)

    def predictions(self, answer: Answer, batch: Batch) -> list[Prediction]:
        rows = zip(batch.ids, answer["image"].float().cpu(), batch.real_B.tolist(), strict=True)
        return [Prediction(id, embedding=embedding_E) for id, embedding_E, keep in rows if keep]

    def pictures(self, answer: Answer, batch: Batch) -> dict[str, Tensor]:
        """``retrieved``: under each picture the nearest of the captions of all pictures shown, whether it is right, and its own if not."""
        sheet = retrieved_sheet(batch, _captions(batch), answer["image"], answer["texts"])
        return {} if sheet is None else {"retrieved": sheet}


def _captions(batch: Batch) -> list[tuple[str, ...]]:
    """All captions of each real picture, none of them empty."""
    told = batch.captions or [()] * len(batch)
    return [tuple(text for text in some if text) if real else () for some, real in zip(told, batch.real_B.tolist(), strict=True)]
