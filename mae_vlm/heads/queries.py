"""Where objects are: a set of boxes, each the answer of a query, in the manner of LW-DETR.

Letters: B pictures, D width, F width of the head, N cells of the map, Q queries of all groups, L classes, h, w cells down and across.
"""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from mae_vlm.data.summary import Summary
from mae_vlm.data.targets import BOXES, MASKS
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.heads.base import Head
from mae_vlm.heads.parts import box_answers
from mae_vlm.heads.parts.box_metrics import BoxPrecision, box_tables
from mae_vlm.heads.parts.box_set_loss import WEIGHTS, Output, Truth, corners, matched, set_sums
from mae_vlm.heads.parts.c2f import Projector
from mae_vlm.heads.parts.category_ids import category_ids
from mae_vlm.heads.parts.dense_detections import Detections
from mae_vlm.heads.parts.mask_metrics import MOST, PRECISIONS, MaskPrecision, precision_table
from mae_vlm.heads.parts.query_decoder import QueryDecoder
from mae_vlm.heads.parts.query_detections import best_of
from mae_vlm.heads.parts.query_mask_answers import Found, masks_drawn, measure_masks, with_masks
from mae_vlm.heads.parts.query_masks import MASK_WEIGHTS, Drawn, MaskBranch, drawing_costs, drawing_sums
from mae_vlm.heads.parts.two_stage import Proposer, box_layers, class_layer, moved, proposing, squares
from mae_vlm.types import Answer, Batch, Loss, Prediction, Term, TokenSpace

_QUERIES = 300
_WINDOWS, _WINDOW = (4, 2), 8  # how many windows down and across, and the fewest patches of a window's side
_CELL = 4  # pixels of a mask's cell, about


class Queries(Head):
    """A detector that answers with a set: no anchors, no overlaps to remove. It wants many labelled pictures, some 10,000, or a good start.

    LW-DETR (Chen et al. 2024, arXiv 2406.03459) on a plain encoder. Most blocks attend within windows only; the maps of some are merged
    into one with a cell for each patch. The cells most like an object propose boxes, one for each query; layers of attention, to each other
    and to places of the map around that box, decide what is in it and move it. While training there are ``groups`` of queries that do
    not see each other, each matched with the objects by itself (Group DETR); outside of training there is the first alone.

    The answer's tensors are logits of classes ``classes``, ``[B, Q, L]``, and ``boxes``, ``[B, Q, 4]``: centre, width and height in
    shares of the prepared picture; in training also ``classes_<k>`` and ``boxes_<k>``, those proposed (0) and those after the k-th layer.
    With ``masks`` there are further ``queries``, ``cells`` and ``bias`` of each, see :class:`mae_vlm.heads.parts.query_masks.Drawn`.

    The terms ``classes``, ``boxes`` (the sum of four distances) and ``overlaps`` (generalised IoU) are sums over the number of objects,
    means over groups and over the depths at which queries answer (outside of training the last alone); the loss is 1, 5 and 2 times
    these, times the number of depths in training. That of the classes sums over all queries, also of pictures without an object; in a
    step without any object it is the sum itself. Crowds are not learned. Unlike in the publication all norms are over channels, each
    tapped map has one of its own, padding is looked at too, and of a picture with more objects than queries as many count as there
    are queries. With ``masks`` (RF-DETR-Seg) binary cross-entropy and ``dice`` at points of them come in, five times each, as do the
    classes then.

    ``threshold`` is the score from which on validation found the highest F1; kept with the weights, it decides what is drawn and listed.

    Args:
        towers, weight: see :class:`Head`.
        classes: their names in the order of their numbers, or how many. The CLI takes them from the data.
        ids: the collection's own numbers of the classes, as COCO's category ids, for ``predict``'s files. The CLI takes them from the data.
        queries: how many in a group. Automatic: 300, or as many as the map has cells where these are fewer.
        groups: how many while training; each costs as much as the first.
        width: channels of everything after the encoder, a multiple of 4 and of twice the ``heads``.
        layers: of the decoder.
        heads: of its attention; that to the map has twice as many.
        points: places of the map that a query looks at with each head.
        hidden: width inside the decoder's MLPs.
        taps: blocks, from 0, whose maps are merged; the last among them. Automatic: at each quarter of the depth (2, 5, 8, 11 of 12).
        windows: so many down and across. Automatic: 4 or 2, where that leaves windows of 8 x 8 patches at least, else 1.
        whole: blocks, from 0, that attend to the whole picture; all the same with 1 window. Automatic: the ``taps``.
        masks: whether each query draws a mask, too.
        most: detections of a picture; COCO's measure looks at 100. Automatic: 300, with masks 100.

    Raises:
        ValueError: an option out of its range.
    """

    learns: ClassVar[str] = "object_classes"
    normed: ClassVar[bool] = False
    threshold: Tensor
    squares_N4: Tensor
    inside_N: Tensor

    def __init__(
        self,
        towers: Towers,
        weight: float = 1.0,
        classes: int | list[str] | None = None,
        queries: int | None = None,
        groups: int = 13,
        width: int = 256,
        layers: int = 3,
        heads: int = 8,
        points: int = 2,
        hidden: int = 2048,
        taps: tuple[int, ...] | None = None,
        windows: int | None = None,
        whole: tuple[int, ...] | None = None,
        masks: bool = False,
        most: int | None = None,
        ids: list[int] | None = None,
    ) -> None:
        super().__init__(towers, weight)
        self.named, self.names = not isinstance(classes, int), box_answers.names_of(classes)
        self.classes, self.ids = len(self.names), category_ids(ids, self.names)
        self.groups, self.depths = groups, layers + 1
        self.most = (MOST if masks else _QUERIES) if most is None else most
        self.space, depth = towers.image.space, len(towers.image.vit.blocks)
        first_N4, inside_N = squares(self.space.rows, self.space.columns)
        cells = proposing(self.space.rows, self.space.columns)
        self.queries = min(_QUERIES, cells) if queries is None else queries
        self.taps = tuple(sorted({max(0, round(depth * part / 4) - 1) for part in range(1, 5)})) if taps is None else tuple(taps)
        self.windows = _windows(towers) if windows is None else windows
        self.whole = () if self.windows == 1 else self.taps if whole is None else tuple(whole)
        _check(self, cells, width, heads, min(layers, points, hidden))
        _check_windows(self, depth, towers)
        self.project = Projector(len(self.taps), towers.image.width, width)
        self.propose = nn.ModuleList(Proposer(width, self.classes, self.queries) for _ in range(groups))
        self.content = nn.Parameter(torch.randn(groups * self.queries, width))
        self.shift = nn.Parameter(torch.zeros(groups * self.queries, 4))  # of the proposed boxes, as `moved` wants it
        self.decode = QueryDecoder(width, layers, heads, points, hidden)
        self.classify, self.place = class_layer(width, self.classes), box_layers(width)
        self.draw = MaskBranch(width, layers, max(1, round(self.space.patch / _CELL))) if masks else None
        self.weights = WEIGHTS | (MASK_WEIGHTS if masks else {})
        self.register_buffer("squares_N4", first_N4, persistent=False)
        self.register_buffer("inside_N", inside_N, persistent=False)
        self.register_buffer("threshold", torch.tensor(0.5))
        self.best = ("box_map", True)

    @property
    def wants(self) -> frozenset[str]:
        return frozenset({BOXES} if self.draw is None else {BOXES, MASKS})

    def check(self, summary: Summary) -> None:
        box_answers.check_classes(self.names, self.named, summary)

    def forward(self, features: Features) -> Answer:
        map_BFhw = self.project(features.maps(self.taps, self.windows, self.whole))
        cells_BNF, groups = map_BFhw.flatten(2).transpose(1, 2), self.groups if self.training else 1
        said = [propose(cells_BNF, self.squares_N4, self.inside_N) for propose in self.propose[:groups]]
        *proposed, seen_BQF = (torch.cat(part, dim=1) for part in zip(*said, strict=True))
        count = groups * self.queries
        boxes_BQ4 = moved(proposed[1].detach(), self.shift[:count])
        content_BQF = self.content[:count].to(map_BFhw.dtype).expand(len(map_BFhw), -1, -1)
        states = self.decode(content_BQF, boxes_BQ4, map_BFhw, groups)
        outputs = [Output(self.classify(state), moved(boxes_BQ4, self.place(state))) for state in states[0 if self.training else -1 :]]
        outputs = [Output(*proposed), *outputs] if self.training else outputs
        drawn = [] if self.draw is None else self.draw(map_BFhw, seen_BQF, states, self.training)
        ends = [*(f"_{number}" for number in range(len(outputs) - 1)), ""]
        named = [*zip(ends, outputs, strict=True), *zip(ends, drawn, strict=bool(drawn))]
        return Answer({f"{name}{end}": value for end, one in named for name, value in one._asdict().items()})

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return self._counts(self._truths(batch), batch)

    def loss(self, answer: Answer, batch: Batch) -> Loss:
        ends = [*(f"_{number}" for number in range(self.depths) if f"boxes_{number}" in answer.tensors), ""]
        outputs = [Output(answer[f"classes{end}"], answer[f"boxes{end}"]) for end in ends]
        truths, keys_B = self._truths(batch), batch.keys_B
        drawn = [] if self.draw is None else [_drawn(answer, end) for end in ends]
        more = (lambda number, picture, truth: drawing_costs(drawn[number], truth, picture, keys_B, number)) if drawn else None
        groups = answer["classes"].shape[1] // self.queries
        pairs = matched(outputs, truths, groups, more)
        each = [set_sums(output, own, batch.real_B) for output, own in zip(outputs, pairs, strict=True)]
        for number, one in enumerate(drawn):
            each[number] |= drawing_sums(one, pairs[number], truths, keys_B, groups, number)
        sums = {name: torch.stack([one[name] for one in each]).mean() / groups for name in self.weights}
        counts = self._counts(truths, batch)
        return Loss.of({name: Term(sums[name], counts[name], weight * self.depths) for name, weight in self.weights.items()})

    def metrics(self) -> MetricCollection:
        metrics: dict[str, Metric | MetricCollection] = {"boxes": BoxPrecision(self.classes, self._believe)}
        return MetricCollection(metrics | ({} if self.draw is None else {"masks": MaskPrecision(self.classes)}), compute_groups=False)

    def measure(self, metrics: MetricCollection, answer: Answer, batch: Batch) -> None:
        found, masks = self._found(answer, batch)
        box_answers.measure(metrics, found, batch)
        if masks is not None:
            measure_masks(cast(MaskPrecision, metrics["masks"]), masks, batch)

    def predictions(self, answer: Answer, batch: Batch) -> list[Prediction]:
        found, masks = self._found(answer, batch)
        told = box_answers.predictions(found, batch)
        return told if masks is None else with_masks(told, masks, batch)

    def tables(self, results: dict[str, Tensor]) -> dict[str, list[list[str]]]:
        masks = {} if self.draw is None else {"masks": precision_table(results[PRECISIONS], self.names)}
        return box_tables(results, self.names) | masks

    def pictures(self, answer: Answer, batch: Batch) -> dict[str, Tensor]:
        """``detections``, and ``masks``: a row for each picture, with what is true and what is answered from ``threshold`` on."""
        (found, masks), threshold = self._found(answer, batch), float(self.threshold)
        boxes = {"detections": box_answers.drawn(found, batch, threshold, self.classes)}
        return boxes if masks is None else boxes | {"masks": masks_drawn(masks, batch, threshold)}

    def _believe(self, threshold: float) -> None:
        self.threshold.fill_(threshold)

    def _found(self, answer: Answer, batch: Batch) -> tuple[list[Detections], Found | None]:
        """What the first group says of each picture; a second time with masks, where it draws any."""
        scores_BQL = answer["classes"][:, : self.queries].float().sigmoid()
        boxes_BQ4 = corners(answer["boxes"][:, : self.queries].float()) * _sides(self.space, scores_BQL.device)
        said = zip(scores_BQL, boxes_BQ4, batch.targets, strict=True)
        best = [best_of(scores_QL, boxes_Q4, target.frame, self.most) for scores_QL, boxes_Q4, target in said]
        drawn = None if self.draw is None else _drawn(answer)
        masks = None if drawn is None else [(one, drawn.logits(picture, query_N)) for picture, (one, query_N) in enumerate(best)]
        return [one for one, _ in best], masks

    def _truths(self, batch: Batch) -> list[Truth | None]:
        """The objects of each picture that are no crowds; None for a picture that only fills up."""
        sides_4, truths = _sides(self.space, batch.keys_B.device), []
        for target, real in zip(batch.targets, batch.real_B.tolist(), strict=True):
            boxes_N4, classes_N, crowds_N = box_answers.known(target)
            left_N2, right_N2 = (boxes_N4[~crowds_N] / sides_4).chunk(2, dim=1)
            masks_NHW = None if target.masks is None else target.masks[~crowds_N]
            own = Truth(torch.cat([(left_N2 + right_N2) / 2, right_N2 - left_N2], dim=1), classes_N[~crowds_N], masks_NHW)
            truths.append(own if real else None)
        return truths

    def _counts(self, truths: list[Truth | None], batch: Batch) -> dict[str, Tensor]:
        objects = float(sum(min(len(truth.classes), self.queries) for truth in truths if truth is not None))
        return {name: torch.tensor(objects, device=batch.keys_B.device) for name in self.weights}


def _drawn(answer: Answer, end: str = "") -> Drawn:
    return Drawn(answer[f"queries{end}"], answer[f"cells{end}"], answer[f"bias{end}"])


def _sides(space: TokenSpace, device: torch.device) -> Tensor:
    return torch.tensor([space.width, space.height, space.width, space.height], device=device)


def _windows(towers: Towers) -> int:
    """The most that leave windows as large as MAE's whole pictures, nearly; rotary positions know no windows."""
    rows, columns = towers.image.space.rows, towers.image.space.columns
    fitting = [count for count in _WINDOWS if not rows % count and not columns % count and min(rows, columns) >= count * _WINDOW]
    return fitting[0] if fitting and getattr(towers.image.vit, "rope", None) is None else 1


def _check(head: Queries, cells: int, width: int, heads: int, least: int) -> None:
    if min(head.classes, head.groups, head.most, head.queries, heads, least) < 1:
        raise ValueError(
            f"classes {head.classes}, queries {head.queries}, groups {head.groups}, heads {heads}, most {head.most}, layers, points and "
            "hidden must all be 1 or more"
        )
    if head.queries > cells:
        grid = f"{head.space.rows} x {head.space.columns}"
        raise ValueError(f"queries {head.queries} given, the {grid} patches propose {cells} boxes; give at most that, or larger pictures")
    if width < 4 or width % 4 or width % (2 * heads):
        raise ValueError(f"width {width} given, it must be a multiple of 4 and of twice the heads ({2 * heads}), as 256")


def _check_windows(head: Queries, depth: int, towers: Towers) -> None:
    named = (*head.taps, *head.whole)
    if not head.taps or min(named) < 0 or max(named) >= depth or max(head.taps) != depth - 1:
        raise ValueError(
            f"taps {head.taps} and whole {head.whole} given; blocks are 0 to {depth - 1}, and the last must be tapped to be trained"
        )
    space = head.space
    if head.windows < 1 or space.rows % head.windows or space.columns % head.windows:
        raise ValueError(f"windows {head.windows} given, which cannot divide {space.rows} x {space.columns} patches; give 1, 2 or 4")
    if head.windows > 1 and getattr(towers.image.vit, "rope", None) is not None:
        raise ValueError(f"windows {head.windows} given, but {towers.image.architecture} has rotary positions; give windows 1")
