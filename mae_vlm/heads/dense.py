"""Where objects are: boxes, said at every place of a pyramid of grids.

Letters: B pictures, D width, F width of the pyramid, N objects, M places of all levels, L classes, h, w patches down and across.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from torchmetrics import MetricCollection
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from mae_vlm.data.summary import Summary
from mae_vlm.data.targets import BOXES
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.heads.base import Head
from mae_vlm.heads.parts.box_answers import check_classes, drawn, known, measure, names_of, predictions
from mae_vlm.heads.parts.box_metrics import BoxPrecision, box_tables
from mae_vlm.heads.parts.boxes import decode, iou
from mae_vlm.heads.parts.category_ids import category_ids
from mae_vlm.heads.parts.dense_detections import Detections, detect
from mae_vlm.heads.parts.dense_tower import DenseTower
from mae_vlm.heads.parts.points import assign, in_crowd, levels_of, places, pyramid_scales
from mae_vlm.heads.parts.pyramid import SimplePyramid
from mae_vlm.types import Answer, Batch, Loss, Prediction, Term

_WIDEST = 256
_WEIGHTS = {"classes": 1.0, "boxes": 2.0, "quality": 1.0}  # of the terms, as in ATSS


class Objects(NamedTuple):
    """Objects of a batch, lists filled up to the same length and by one more: ``[B, N, 4]``, and ``[B, N]`` each."""

    boxes_BN4: Tensor
    classes_BN: Tensor
    crowds_BN: Tensor
    single_BN: Tensor  # there, and no crowd


class Dense(Head):
    """A detector that learns from few labelled pictures: every place of a pyramid names the class and the box of the object it lies in.

    FCOS (Tian et al. 2019, arXiv 1904.01355) on ViTDet's simple pyramid of the last block's map (Li et al. 2022, arXiv 2203.16527),
    objects given to places as in ATSS (see ``mae_vlm.heads.parts.points.assign``), no batch norm. The loss has three terms: focal loss
    of the ``classes``, generalised IoU of the ``boxes``, and cross-entropy of the ``quality``, the IoU of the box with the object. Each is
    over the number of places with an object; that of the classes counts each picture as one more, so that a step of empty pictures is
    no jump. A crowd's places without an object of their own count nothing for its class. The score is the geometric mean of class
    and quality.

    The answer's tensors are logits of classes ``[B, M, classes]``, raw ``boxes`` ``[B, M, 4]`` and logits of ``quality`` ``[B, M]``.
    ``threshold`` is the score from which on validation found the highest F1; kept with the weights, it decides what is drawn and listed.

    Args:
        towers, weight: see :class:`Head`.
        classes: their names in the order of their numbers, or how many. The CLI takes them from the data.
        ids: the collection's own numbers of the classes, as COCO's category ids, for ``predict``'s files. The CLI takes them from the data.
        width: channels of the pyramid. Automatic: the encoder's width, 256 at most.
        layers: convolutions before each of the two answers.
        overlap: of two detections of a class whose IoU is above it, the one with the lower score is dropped.
        most: detections of a picture; COCO's measure looks at 100.

    Raises:
        ValueError: an option out of its range.
    """

    wants: ClassVar[frozenset[str]] = frozenset({BOXES})
    learns: ClassVar[str] = "object_classes"
    normed: ClassVar[bool] = False
    threshold: Tensor

    def __init__(
        self,
        towers: Towers,
        weight: float = 1.0,
        classes: int | list[str] | None = None,
        width: int | None = None,
        layers: int = 4,
        overlap: float = 0.6,
        most: int = 100,
        ids: list[int] | None = None,
    ) -> None:
        super().__init__(towers, weight)
        self.named, self.names = not isinstance(classes, int), names_of(classes)
        self.classes, self.ids = len(self.names), category_ids(ids, self.names)
        if self.classes < 1 or layers < 0 or most < 1 or not 0 < overlap <= 1 or (width is not None and width < 1):
            raise ValueError(
                f"classes {self.classes}, width {width} and most {most} must be 1 or more, layers {layers} 0 or more, "
                f"overlap {overlap} a share above 0"
            )
        self.overlap, self.most, self.space = overlap, most, towers.image.space
        scales = pyramid_scales(self.space)
        self.levels = levels_of(self.space, scales)
        width = min(_WIDEST, towers.image.width) if width is None else width
        self.pyramid = SimplePyramid(towers.image.width, width, scales)
        self.tower = DenseTower(width, self.classes, layers)
        self.register_buffer("threshold", torch.tensor(0.5))
        self.best = ("box_map", True)

    def check(self, summary: Summary) -> None:
        check_classes(self.names, self.named, summary)

    def forward(self, features: Features) -> Answer:
        tokens_BND = features.full.unnormed_BND
        assert tokens_BND is not None
        maps = self.pyramid([rearrange(tokens_BND, "b (h w) d -> b d h w", h=self.space.rows)])
        assert [tuple(one.shape[2:]) for one in maps] == [level[:2] for level in self.levels]
        classes_BML, boxes_BM4, quality_BM = self.tower(maps)
        return Answer({"classes": classes_BML, "boxes": boxes_BM4, "quality": quality_BM})

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        owner_BM = self._owners(self._objects(batch))
        return self._counts(owner_BM, batch)

    def loss(self, answer: Answer, batch: Batch) -> Loss:
        objects = self._objects(batch)
        owner_BM = self._owners(objects)
        mine_BM = (owner_BM >= 0) & batch.real_B[:, None]
        centres_M2, side_M = places(self.levels, owner_BM.device)
        boxes_BM4 = decode(answer["boxes"], centres_M2, side_M)
        own_BM4 = torch.cat([centres_M2 - side_M[:, None] / 2, centres_M2 + side_M[:, None] / 2], -1)
        index_BM = owner_BM.clamp(min=0)
        true_BM4 = torch.where(mine_BM[..., None], objects.boxes_BN4.gather(1, index_BM[..., None].expand(-1, -1, 4)), own_BM4)
        fit_BM = iou(boxes_BM4.detach(), true_BM4)
        sums = {
            "classes": self._class_error(answer["classes"].float(), objects, index_BM, mine_BM, batch.real_B),
            "boxes": (generalized_box_iou_loss(boxes_BM4, true_BM4) * mine_BM).sum(),
            "quality": (functional.binary_cross_entropy_with_logits(answer["quality"].float(), fit_BM, reduction="none") * mine_BM).sum(),
        }
        counts = self._counts(owner_BM, batch)
        return Loss.of({name: Term(value, counts[name], _WEIGHTS[name]) for name, value in sums.items()})

    def metrics(self) -> MetricCollection:
        return MetricCollection({"boxes": BoxPrecision(self.classes, self._believe)}, compute_groups=False)

    def measure(self, metrics: MetricCollection, answer: Answer, batch: Batch) -> None:
        measure(metrics, self._detections(answer, batch), batch)

    def predictions(self, answer: Answer, batch: Batch) -> list[Prediction]:
        return predictions(self._detections(answer, batch), batch)

    def tables(self, results: dict[str, Tensor]) -> dict[str, list[list[str]]]:
        return box_tables(results, self.names)

    def pictures(self, answer: Answer, batch: Batch) -> dict[str, Tensor]:
        """``detections``: a row for each picture, with its true boxes and with those answered from ``threshold`` on."""
        return {"detections": drawn(self._detections(answer, batch), batch, float(self.threshold), self.classes)}

    def _believe(self, threshold: float) -> None:
        self.threshold.fill_(threshold)

    def _detections(self, answer: Answer, batch: Batch) -> list[Detections]:
        centres_M2, side_M = places(self.levels, answer["boxes"].device)
        boxes_BM4 = decode(answer["boxes"], centres_M2, side_M)
        scores_BML = (answer["classes"].float().sigmoid() * answer["quality"].float().sigmoid()[..., None]).sqrt()
        frames = [target.frame for target in batch.targets]
        return [
            detect(scores_ML, boxes_M4, frame, self.most, self.overlap)
            for scores_ML, boxes_M4, frame in zip(scores_BML, boxes_BM4, frames, strict=True)
        ]

    def _objects(self, batch: Batch) -> Objects:
        objects = [known(target) for target in batch.targets]
        longer = [[functional.pad(part, (0, 0) * (part.ndim - 1) + (0, 1)) for part in one] for one in objects]
        boxes_BN4, classes_BN, crowds_BN = (pad_sequence(list(part), batch_first=True) for part in zip(*longer, strict=True))
        counts_B1 = torch.tensor([[len(one[0])] for one in objects], device=boxes_BN4.device)
        there_BN = torch.arange(boxes_BN4.shape[1], device=boxes_BN4.device) < counts_B1
        return Objects(boxes_BN4, classes_BN, crowds_BN & there_BN, there_BN & ~crowds_BN)

    def _owners(self, objects: Objects) -> Tensor:
        return assign(objects.boxes_BN4, objects.single_BN, self.levels)

    def _counts(self, owner_BM: Tensor, batch: Batch) -> dict[str, Tensor]:
        taken = ((owner_BM >= 0) & batch.real_B[:, None]).sum().float()
        return {"classes": taken + batch.real_B.sum(), "boxes": taken, "quality": taken}

    def _class_error(self, logits_BML: Tensor, objects: Objects, index_BM: Tensor, mine_BM: Tensor, real_B: Tensor) -> Tensor:
        """The summed focal loss of real pictures (Lin et al. 2017, arXiv 1708.02002), without what crowds leave open."""
        kinds_BM = objects.classes_BN.gather(1, index_BM)
        true_BML = functional.one_hot(kinds_BM, self.classes) * mine_BM[..., None]
        centres_M2 = places(self.levels, logits_BML.device)[0]
        open_BML = in_crowd(objects.boxes_BN4, objects.classes_BN, objects.crowds_BN, centres_M2, self.classes) & ~mine_BM[..., None]
        error_BML: Tensor = sigmoid_focal_loss(logits_BML, true_BML.to(logits_BML.dtype))
        return (error_BML * (real_B[:, None, None] & ~open_BML)).sum()
