"""Masks by queries inside the encoder: semantic, instance and panoptic segmentation from one head.

Letters: B pictures, D width, T tokens, Q queries, L classes, N objects, H, W pixels, h, w cells of a mask, down and across.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from mae_vlm.data.summary import Summary
from mae_vlm.data.targets import MASKS, ORIGINAL, SEMANTIC
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.passes import Held
from mae_vlm.encoders.towers import Towers
from mae_vlm.heads.base import Head
from mae_vlm.heads.parts import mask_answers
from mae_vlm.heads.parts.annealing import attention_mask, masked_share
from mae_vlm.heads.parts.category_ids import category_ids
from mae_vlm.heads.parts.mask_metrics import MOST, PRECISIONS, MaskPrecision, precision_table
from mae_vlm.heads.parts.mask_pictures import side_by_side
from mae_vlm.heads.parts.mask_set_loss import WEIGHTS, Output, Truth, class_sum, mask_sums, matched
from mae_vlm.heads.parts.mask_truths import object_truths, originals, prepared, segments_of, semantic_truths
from mae_vlm.heads.parts.mask_upscale import MaskUpscale, upscalings
from mae_vlm.heads.parts.panoptic_quality import QUALITIES, PanopticQuality, quality_table
from mae_vlm.heads.parts.segment_metrics import segment_metrics, segment_tables
from mae_vlm.types import Answer, Batch, Loss, Prediction, Target, Term

_LEARNS = {"semantic": "semantic_classes", "instance": "object_classes", "panoptic": "object_classes"}
_BEST = {"semantic": "miou", "instance": "mask_map", "panoptic": "pq"}
_ATTENTION = 1000  # the stream of chance that opens queries; those of the loss count from 0


class Masks(Head):
    """EoMT (Kerssies et al. 2025, arXiv 2503.19108): learned queries go through the encoder's last blocks together with its tokens.

    Before each of these blocks and after the last, each query names a class, or none, and draws a mask: logits on a map of 4-pixel cells.
    In training a query looks only at the patches that its mask covers; that is given up block by block as the run goes on
    (:mod:`mae_vlm.heads.parts.annealing`), and outside of training nothing is masked. The answer's tensors are ``classes``, of
    ``[B, Q, L + 1]`` (the last: no object), and ``masks``, of ``[B, Q, h, w]``; in training also ``classes_<k>`` and ``masks_<k>``, those
    before the k-th block.

    The terms ``class``, ``mask`` and ``dice`` are means over the depths at which queries answer (outside of training the last alone); the
    loss is 2, 5 and 5 times these, times the number of depths in training. Crowds are not learned. Pixels that no object covers, and those
    of unknown class, belong to no mask. Unlike in the publication the class term is a mean over all processes, of a picture with more
    objects than queries as many count as there are queries, and the masks of one picture share the candidates for their points.

    Args:
        towers, weight: see :class:`Head`.
        classes: their names in the order of their numbers, or how many. The CLI takes them from the data.
        ids: the collection's own numbers of the classes, as COCO's category ids, for ``predict``'s files. The CLI takes them from the data.
        task: ``semantic`` (a class for every pixel), ``instance`` (objects that may overlap, each with a score) or ``panoptic`` (segments
            that do not overlap; what no true segment covers counts as unknown).
        queries: how many; None takes the publication's 100 (semantic) or 200.
        last: how many of the last blocks they go through; None takes the publication's 3 of 12 blocks, 4 of 24, 5 of more.
        masked: whether attention is masked in training at all.
        points: at so many the masks are compared with the truth.
        no_object: weight of a query without an object in the class term.
        upscales: how often the map of patches is doubled; None until a cell is about 4 pixels wide.
        stuff: names or numbers of the classes of which a picture has one segment at most, as sky (panoptic).
        original: whether objects are measured in the original's own pixels, as COCO does, not in the prepared picture's: that takes as much
            time and memory as the pictures are large (instance).
        score, overlap: a panoptic segment needs a higher score, and that share of its own mask left to it.

    Raises:
        ValueError: an option out of its range.
    """

    learns: ClassVar[str] = "object_classes"

    def __init__(
        self,
        towers: Towers,
        weight: float = 1.0,
        classes: int | list[str] | None = None,
        task: str = "instance",
        queries: int | None = None,
        last: int | None = None,
        masked: bool = True,
        points: int = 12544,
        no_object: float = 0.1,
        upscales: int | None = None,
        stuff: list[str | int] | None = None,
        score: float = 0.8,
        overlap: float = 0.8,
        ids: list[int] | None = None,
        original: bool = False,
    ) -> None:
        super().__init__(towers, weight)
        if classes is None:
            raise ValueError("a mask head needs its classes, their number or names; the command line takes them from the data")
        if task not in _LEARNS:
            raise ValueError(f"task {task!r} given, allowed are {', '.join(_LEARNS)}")
        self.names = [str(number) for number in range(classes)] if isinstance(classes, int) else list(classes)
        self.classes, self.named, self.task = len(self.names), not isinstance(classes, int), task
        self.stuff, self.ids = frozenset(_numbers(stuff or [], self.names)), category_ids(ids, self.names)
        encoder, depth = towers.image, len(towers.image.vit.blocks)
        self.queries_count = queries if queries is not None else 100 if task == "semantic" else 200
        self.last = min(depth, 3 if depth <= 12 else 4 if depth <= 24 else 5) if last is None else last
        self.masked, self.points, self.no_object, self.score, self.overlap = masked, points, no_object, score, overlap
        self.original = original
        _check(self, depth)
        self.grid, width = (encoder.space.rows, encoder.space.columns), encoder.width
        self.queries = nn.Parameter(torch.randn(self.queries_count, width))
        self.classify = nn.Linear(width, self.classes + 1)
        self.draw = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.upscale = MaskUpscale(width, upscalings(encoder.space.patch) if upscales is None else upscales)
        self.best = (_BEST[task], True)

    @property
    def wants(self) -> frozenset[str]:
        return frozenset({SEMANTIC if self.task == "semantic" else MASKS, *([ORIGINAL] if self.original else [])})

    @classmethod
    def learned(cls, options: dict[str, Any]) -> str:
        return _LEARNS.get(str(options.get("task", "instance")), cls.learns)

    def check(self, summary: Summary) -> None:
        where, found = summary.path or "the collection", getattr(summary, _LEARNS[self.task])
        if found is None:
            raise ValueError(f"{where} has no masks of named classes to learn; give them with data.annotations")
        if len(found) != self.classes or (self.named and found != self.names):
            raise ValueError(f"{where} has the classes {_few(found)}, this head {_few(self.names)}; give data of the same classes")

    def forward(self, features: Features) -> Answer:
        held = features.held(self.last)
        queries_BQD = self.queries.to(held.tokens_BTD.dtype).expand(len(held.tokens_BTD), -1, -1)
        tokens_BTD = torch.cat([queries_BQD, held.tokens_BTD], dim=1)
        answer: dict[str, Tensor] = {}
        for number, block in enumerate(held.blocks):
            seen = None
            if self.training:
                classes_BQL, masks_BQhw = self._say(held, tokens_BTD)
                answer |= {f"classes_{number}": classes_BQL, f"masks_{number}": masks_BQhw}
                share = masked_share(number, self.last, self.progress) if self.masked else 0.0
                seen = attention_mask(masks_BQhw, self.grid, held.prefix, share, features.batch.keys_B, _ATTENTION + number)
            tokens_BTD = block(tokens_BTD) if seen is None else block(tokens_BTD, attn_mask=seen)
        classes_BQL, masks_BQhw = self._say(held, tokens_BTD)
        return Answer(answer | {"classes": classes_BQL, "masks": masks_BQhw})

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return self._counts(self._truths(batch), batch.keys_B.device)

    def loss(self, answer: Answer, batch: Batch) -> Loss:
        ends = [*(f"_{number}" for number in range(self.last) if f"masks_{number}" in answer.tensors), ""]
        outputs = [Output(answer[f"classes{end}"], answer[f"masks{end}"]) for end in ends]
        truths, keys_B = self._truths(batch), batch.keys_B
        sums: dict[str, list[Tensor]] = {"class": [], "mask": [], "dice": []}
        for number, (output, pairs) in enumerate(zip(outputs, matched(outputs, truths, keys_B, self.points), strict=True)):
            entropy, dice = mask_sums(output.masks, pairs, truths, keys_B, self.points, number)
            sums["class"].append(class_sum(output.classes, pairs, truths, self.no_object))
            sums["mask"].append(entropy)
            sums["dice"].append(dice)
        counts, depths = self._counts(truths, keys_B.device), self.last + 1
        weighted = zip(sums.items(), WEIGHTS, strict=True)
        return Loss.of({name: Term(torch.stack(values).mean(), counts[name], weight * depths) for (name, values), weight in weighted})

    def metrics(self) -> MetricCollection:
        if self.task == "semantic":
            return segment_metrics(self.classes)
        if self.task == "instance":
            return MetricCollection({"masks": MaskPrecision(self.classes)}, compute_groups=False)
        return MetricCollection({"masks": PanopticQuality(self.classes, tuple(sorted(self.stuff)))}, compute_groups=False)

    def measure(self, metrics: MetricCollection, answer: Answer, batch: Batch) -> None:
        """In the pixels of the prepared picture, so that memory does not grow with the originals; objects on demand in ``original``'s."""
        for index, (target, real) in enumerate(zip(batch.targets, batch.real_B.tolist(), strict=True)):
            widen = mask_answers.within(_size(batch), target.frame)
            if self.task == "semantic":
                true_HW = _semantic(target)[: target.frame.rows, : target.frame.columns]
                metrics.update(self._semantic(answer, index, batch, widen), true_HW if real else torch.full_like(true_HW, -1))
            elif self.task == "instance":
                self._measure_objects(metrics["masks"], answer, index, batch, real)
            elif real:
                found = self._panoptic(answer, index, widen)
                metrics["masks"].update(found.map, found.classes, *segments_of(target))

    def predictions(self, answer: Answer, batch: Batch) -> list[Prediction]:
        found = []
        for index in batch.real_B.nonzero()[:, 0].tolist():
            id, widen = batch.ids[index], mask_answers.in_original(_size(batch), batch.targets[index].frame)
            if self.task == "semantic":
                found.append(Prediction(id, semantic=self._semantic(answer, index, batch, widen).cpu()))
            elif self.task == "instance":
                masks_KHW, scores_K, classes_K = (one.cpu() for one in self._objects(answer, index, widen))
                found.append(Prediction(id, object_scores=scores_K, object_classes=classes_K, masks=masks_KHW))
            else:
                map_HW, classes_K, scores_K = (one.cpu() for one in self._panoptic(answer, index, widen))
                found.append(Prediction(id, object_scores=scores_K, object_classes=classes_K, segments=map_HW))
        return found

    def tables(self, results: dict[str, Tensor]) -> dict[str, list[list[str]]]:
        if self.task == "semantic":
            return segment_tables(results, self.names)
        if self.task == "instance":
            return {"classes": precision_table(results[PRECISIONS], self.names)}
        return {"classes": quality_table(results[QUALITIES], self.names)}

    def pictures(self, answer: Answer, batch: Batch) -> dict[str, Tensor]:
        """``masks``: a row for each picture, of it, of what is true, and of what is said; of objects those with a score above one half."""
        size, answers, truths = _size(batch), [], []
        for index, target in enumerate(batch.targets):
            widen = mask_answers.within(size, target.frame)
            if self.task == "semantic":
                truths.append(_semantic(target))
                answers.append(self._semantic(answer, index, batch, widen))
                continue
            truths.append(segments_of(target)[0])
            if self.task == "panoptic":
                answers.append(self._panoptic(answer, index, widen).map)
            else:
                masks_KHW, scores_K, _ = self._objects(answer, index, widen)
                answers.append(mask_answers.painted(masks_KHW[scores_K > 0.5]))
        return {"masks": side_by_side(batch.images_BCHW, truths, answers, self.classes if self.task == "semantic" else None)}

    def _say(self, held: Held, tokens_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """What the queries say at some depth: class logits ``[B, Q, L + 1]`` and mask logits ``[B, Q, h, w]``."""
        normed_BTD = held.norm(tokens_BTD)
        queries_BQD, patches_BND = normed_BTD[:, : self.queries_count], normed_BTD[:, self.queries_count + held.prefix :]
        map_BDhw = self.upscale(patches_BND.transpose(1, 2).unflatten(2, self.grid))
        return self.classify(queries_BQD), torch.einsum("bqd,bdhw->bqhw", self.draw(queries_BQD), map_BDhw)

    def _counts(self, truths: list[Truth | None], device: torch.device) -> dict[str, Tensor]:
        known = [len(truth.classes) for truth in truths if truth is not None]
        objects = float(sum(min(number, self.queries_count) for number in known))
        queries = objects + self.no_object * (len(known) * self.queries_count - objects)
        return {name: torch.tensor(count, device=device) for name, count in {"class": queries, "mask": objects, "dice": objects}.items()}

    def _truths(self, batch: Batch) -> list[Truth | None]:
        return semantic_truths(batch) if self.task == "semantic" else object_truths(batch, self.stuff)

    def _objects(self, answer: Answer, index: int, widen: mask_answers.Widen) -> tuple[Tensor, Tensor, Tensor]:
        return mask_answers.instances(answer["classes"][index], answer["masks"][index], widen, MOST)

    def _panoptic(self, answer: Answer, index: int, widen: mask_answers.Widen) -> mask_answers.Segments:
        return mask_answers.panoptic(answer["classes"][index], answer["masks"][index], widen, self.stuff, self.score, self.overlap)

    def _semantic(self, answer: Answer, index: int, batch: Batch, widen: mask_answers.Widen) -> Tensor:
        return mask_answers.semantic(answer["classes"][index], answer["masks"][index], _size(batch), widen)

    def _measure_objects(self, metric: Any, answer: Answer, index: int, batch: Batch, real: bool) -> None:
        target, most = batch.targets[index], None if real else 0  # padding is a picture without anything: processes must add as many each
        widen = (mask_answers.in_original if self.original else mask_answers.within)(_size(batch), target.frame)
        found = [one[:most] for one in self._objects(answer, index, widen)]
        if self.original:
            metric.add(*(one.cpu() for one in found), *(one[:most] for one in originals(target)))
        else:
            metric.add(*found, *(one[:most] for one in prepared(target)))


def _check(head: Masks, depth: int) -> None:
    if head.queries_count < 1 or head.points < 4 or head.classes < 1:
        raise ValueError(f"queries {head.queries_count}, points {head.points}, classes {head.classes}: 1, 4 and 1 are the least")
    if not 0 < head.last <= depth:
        raise ValueError(f"last {head.last} given, the encoder has {depth} blocks; let queries go through 1 to {depth} of them")
    if head.no_object <= 0 or not 0 <= head.score < 1 or not 0 <= head.overlap <= 1:
        raise ValueError(f"no_object {head.no_object} must be above 0, score {head.score} and overlap {head.overlap} shares from 0 to 1")
    if head.original and head.task != "instance":
        raise ValueError(f"original given for the task {head.task}; only the masks of instances are measured in the original's pixels")
    if head.stuff and head.task != "panoptic":
        raise ValueError(f"stuff given for the task {head.task}; only panoptic tells stuff from things")


def _numbers(stuff: list[str | int], names: list[str]) -> list[int]:
    found = [one if isinstance(one, int) else names.index(one) if one in names else -1 for one in stuff]
    for one, number in zip(stuff, found, strict=True):
        if not 0 <= number < len(names):
            raise ValueError(f"stuff {one} is none of the classes {_few(names)}; give names, or numbers from 0")
    return found


def _few(names: list[str]) -> str:
    return f"{', '.join(names[:5])}{f' ... ({len(names)})' if len(names) > 5 else ''}"


def _size(batch: Batch) -> tuple[int, int]:
    height, width = batch.images_BCHW.shape[-2:]
    return height, width


def _semantic(target: Target) -> Tensor:
    assert target.semantic is not None
    return target.semantic
