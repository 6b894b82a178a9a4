"""What the picture shows, in a sentence.

Letters: B pictures, T tokens of a caption, S tokens told from those before them, V tokens of the vocabulary.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from mae_vlm.data.summary import Summary
from mae_vlm.encoders.features import Features, chosen_captions
from mae_vlm.encoders.towers import Towers
from mae_vlm.heads.base import Head
from mae_vlm.heads.parts.beam_search import Beams, Spoken, beam_search
from mae_vlm.heads.parts.caption_scores import CaptionScores
from mae_vlm.heads.parts.word_drawing import word_sheet
from mae_vlm.pairing.captioning import Captioning, Told, begun
from mae_vlm.pairing.gather import processes
from mae_vlm.types import Answer, Batch, Loss, Prediction, Said


class Caption(Head):
    """A causal language model that looks at the picture, see :class:`mae_vlm.pairing.captioning.Captioning`; needs text and fusion towers.

    The answer's tensors: ``logits`` ``[B, S, V]`` of each next token of one caption of each picture, drawn by its key in training, with
    ``truth`` and ``counts`` ``[B, S]``; outside of training also ``said`` ``[B, T]``, the tokens of its own caption, and ``score`` ``[B]``,
    the geometric mean of their probabilities. Each token of those takes a whole pass over the ones before it. Validation logs ``cider``,
    ``bleu4`` and ``rouge_l`` with all captions of a picture as references (:class:`mae_vlm.heads.parts.caption_scores.CaptionScores`).

    Args:
        towers, weight: see :class:`Head`.
        smoothing: share of a token's certainty that is spread over the vocabulary, in training.
        prompt: words before every caption, given and not learned.
        beams: kept in the search for a caption; 1 takes the likeliest word each time.
        shortest, longest: tokens of its captions, begin, prompt and end not counted; never more than the text tower's length has room for.
        picture: False is the blind control: the same network, shown zeros in the picture's place.

    Raises:
        ValueError: a tower is missing or cannot read causally, or an option out of its range.
    """

    views: ClassVar[tuple[str, ...]] = ("full", "text", "fused")
    column: ClassVar[str] = "caption"
    best = ("cider", True)

    def __init__(
        self,
        towers: Towers,
        weight: float = 1.0,
        smoothing: float = 0.1,
        prompt: str = "",
        beams: int = 3,
        shortest: int = 5,
        longest: int = 30,
        picture: bool = True,
    ) -> None:
        super().__init__(towers, weight)
        self.captioning = Captioning(towers, smoothing, prompt, picture)
        vocabulary = self.captioning.vocabulary
        longest = min(longest, self.captioning.length - self.captioning.begins - 1)
        if beams < 1 or not 0 <= shortest <= longest:
            raise ValueError(f"beams {beams}, shortest {shortest} given: allowed are 1 or more beams and a shortest from 0 to {longest}")
        self.beams = Beams(beams, shortest, longest, vocabulary.end, vocabulary.pad, tuple(vocabulary.special))

    def check(self, summary: Summary) -> None:
        if "captions" not in summary.known:
            raise ValueError(f"{summary.path or 'the collection'} has no captions; name data.caption_column or data.annotations")

    def forward(self, features: Features) -> Answer:
        told = self._told(features.batch)
        tensors = {"logits": self.captioning(features, told), "truth": told.truth_BS, "counts": told.counts_BS}
        if not self.training:
            said = self._say(features)
            tensors |= {"said": said.ids_BT, "score": said.score_B.exp()}
        return Answer(tensors)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        count = self._told(batch).counts_BS.sum().float()
        return {"cross_entropy": count, "accuracy": count}

    def loss(self, answer: Answer, batch: Batch) -> Loss:
        return Loss.of(self.captioning.terms(answer["logits"], answer["truth"], answer["counts"]))

    def metrics(self) -> MetricCollection:
        return MetricCollection({"captions": CaptionScores()})

    def measure(self, metrics: MetricCollection, answer: Answer, batch: Batch) -> None:
        written = batch.captions or [()] * len(batch)
        metrics.update(self._texts(answer), [some if keep else () for some, keep in zip(written, batch.real_B.tolist(), strict=True)])

    def predictions(self, answer: Answer, batch: Batch) -> list[Prediction]:
        told = zip(batch.ids, self._texts(answer), answer["score"].tolist(), batch.real_B.tolist(), strict=True)
        return [Prediction(id, said=(Said(text, score),)) for id, text, score, keep in told if keep]

    def pictures(self, answer: Answer, batch: Batch) -> dict[str, Tensor]:
        """``captions``: each picture above what is said of it, and in brackets the first that is written of it."""
        written = batch.captions or [()] * len(batch)
        lines = [[text, *(f"({one})" for one in some[:1])] for text, some in zip(self._texts(answer), written, strict=True)]
        return {"captions": word_sheet(batch, lines)}

    def _told(self, batch: Batch) -> Told:
        return self.captioning.told(chosen_captions(batch, self.training), batch.keys_B.device)

    @torch.no_grad()
    def _say(self, features: Features) -> Spoken:
        captioning, count = self.captioning, len(features.batch)
        begin = captioning.vocabulary.encode([captioning.prompt], captioning.length).ids_BT[:, : captioning.begins]
        given_BT = begin.to(features.batch.keys_B.device).expand(count, -1)
        seen = features.seen.rows(torch.arange(count, device=given_BT.device).repeat_interleave(self.beams.width))

        def after(ids_RT: Tensor) -> Tensor:
            return captioning.after(features, begun(ids_RT), seen, last=True)[:, 0]

        return beam_search(after, given_BT, self.beams, early=processes() == 1)

    def _texts(self, answer: Answer) -> list[str]:
        begins, end = self.captioning.begins, self.captioning.vocabulary.end
        found = [ids[begins:] for ids in answer["said"].tolist()]
        return [self.captioning.vocabulary.decode(ids[: ids.index(end)] if end in ids else ids) for ids in found]
