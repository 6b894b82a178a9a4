"""Where objects are, and their masks, in two stages: ViTDet's Mask R-CNN, to compare with the literature.

Letters: B pictures, D width, F width of the pyramid, N objects, M anchors, R proposals of a picture, K detections of a picture, L classes,
m cells of a mask down and across, H, W pixels, h, w cells of a map.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from torchmetrics import MetricCollection
from torchvision.models.detection.roi_heads import maskrcnn_inference
from torchvision.models.detection.rpn import concat_box_prediction_layers

from mae_vlm.data.summary import Summary
from mae_vlm.data.targets import BOXES, MASKS
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.heads.base import Head
from mae_vlm.heads.parts import box_answers
from mae_vlm.heads.parts.box_metrics import BoxPrecision, box_tables
from mae_vlm.heads.parts.category_ids import category_ids
from mae_vlm.heads.parts.dense_detections import Detections
from mae_vlm.heads.parts.mask_metrics import PRECISIONS, MaskPrecision, precision_table
from mae_vlm.heads.parts.mask_pasting import pasted
from mae_vlm.heads.parts.pyramid import SimplePyramid
from mae_vlm.heads.parts.region_losses import Known, drawn, mask_losses, of_objects, proposal_losses, region_losses
from mae_vlm.heads.parts.region_stages import anchors_of, detector_scales, proposer, regions
from mae_vlm.types import Answer, Batch, Frame, Loss, Prediction, Target, Term


class MaskRcnn(Head):
    """ViTDet (Li et al. 2022, arXiv 2203.16527): Mask R-CNN (He et al. 2017, arXiv 1703.06870) on a simple pyramid of the last block's map.

    Both stages are torchvision's parts and need its compiled operators (non-maximum suppression and RoIAlign): this head is for comparison
    and for a GPU; ``Dense`` needs fewer labels and less time. As in the publication: anchors on strides 4 to 64, two convolutions before
    the proposals, four and a layer before class and box, four before the mask, LayerNorm, and crowds are background. Unlike there: windows
    are equal parts of the picture and positions are the encoder's own, without relative ones; smooth L1 (1/9) instead of L1, RoIAlign
    without its half-pixel shift (torchvision's), and each level of the pyramid begins with a norm.

    The five terms, all of weight 1, are means over pictures, of which each weighs the same: ``objectness`` and ``proposals`` over the 256
    anchors drawn of it, ``classes`` and ``boxes`` over the 512 regions drawn of it, ``masks`` over the cells of its regions with an object,
    where it has any. That is the published loss at one picture for each GPU, where it was trained, and does not depend on how pictures
    are dealt. What is drawn goes by ``batch.keys_B`` alone.

    The answer's tensors are ``map_<level>`` ``[B, F, h, w]``, ``objectness`` ``[B, M]`` and ``moves`` ``[B, M, 4]`` of the anchors, and
    ``proposals`` ``[B, R, 4]``, of which the first ``proposed`` ``[B]`` count. Outside of training also what is found, in pixels of the
    prepared picture: ``boxes`` ``[B, K, 4]``, ``scores`` and ``kinds`` ``[B, K]``, ``shares`` ``[B, K, m, m]`` of masks, of each picture
    the first ``found`` ``[B]``. ``threshold`` is the score with the highest F1 in validation; kept with the weights, it decides what is
    drawn and listed.

    Memory of the first stage grows with objects times anchors: of 2,000 objects at 1,024 pixels some 8 GB in training.

    Args:
        towers, weight: see :class:`Head`.
        classes: their names in the order of their numbers, or how many. The CLI takes them from the data.
        ids: the collection's own numbers of the classes, as COCO's category ids, for ``predict``'s files. The CLI takes them from the data.
        masks: whether masks are learned too, which the data must have.
        width, hidden: channels of the pyramid and of all convolutions; numbers for each region, from which class and box are told.
        proposals: regions of a picture that the second stage looks at.
        windows: the map is cut into ``windows`` x ``windows`` parts, between which only the blocks ``whole`` attend; 1 for none.
        whole: numbers of those blocks, from 0; ViTDet's of ViT-B are 2, 5, 8 and 11.
        score: detections below it are dropped.
        overlap: of two detections of a class whose IoU is above it, the one with the lower score is dropped.
        most: detections of a picture; COCO's measure looks at 100.

    Raises:
        ValueError: an option out of its range.
    """

    learns: ClassVar[str] = "object_classes"
    normed: ClassVar[bool] = False
    threshold: Tensor

    def __init__(
        self,
        towers: Towers,
        weight: float = 1.0,
        classes: int | list[str] | None = None,
        masks: bool = True,
        width: int = 256,
        hidden: int = 1024,
        proposals: int = 1000,
        windows: int = 1,
        whole: list[int] | None = None,
        score: float = 0.05,
        overlap: float = 0.5,
        most: int = 100,
        ids: list[int] | None = None,
    ) -> None:
        super().__init__(towers, weight)
        self.named, self.names = not isinstance(classes, int), box_answers.names_of(classes)
        self.classes, self.ids = len(self.names), category_ids(ids, self.names)
        least = min(self.classes, width, hidden, proposals, windows, most)
        if least < 1 or not 0 < overlap <= 1 or not 0 <= score < 1:
            raise ValueError(
                f"classes {self.classes}, width {width}, hidden {hidden}, proposals {proposals}, windows {windows} and most {most} must be "
                f"1 or more, overlap {overlap} a share above 0, score {score} one below 1"
            )
        self.masks, self.most, self.space = masks, most, towers.image.space
        self.last = len(towers.image.vit.blocks) - 1
        self.windows, self.whole = windows, tuple(whole or ())
        scales = detector_scales(self.space)
        strides = [self.space.patch / scale for scale in scales]
        self.strides = [*strides, 2 * strides[-1]]
        self.pyramid = SimplePyramid(towers.image.width, width, scales)
        self.first = proposer(width, len(self.strides), proposals)
        found = {"score_thresh": score, "nms_thresh": overlap, "detections_per_img": most}
        self.second = regions(width, hidden, strides, self.classes + 1, masks, **found)
        self.register_buffer("threshold", torch.tensor(0.5))
        self.best = ("box_map", True)

    @property
    def wants(self) -> frozenset[str]:
        return frozenset({BOXES, MASKS} if self.masks else {BOXES})

    def check(self, summary: Summary) -> None:
        box_answers.check_classes(self.names, self.named, summary)
        if self.masks and MASKS not in summary.known:
            raise ValueError(f"{summary.path or 'the collection'} has no masks of objects to learn; set masks to false, for boxes alone")

    def forward(self, features: Features) -> Answer:
        maps = self._maps(features)
        said = concat_box_prediction_layers(*self.first.head(maps))
        objectness_BM, moves_BM4 = (one.float().view(len(maps[0]), -1, one.shape[-1]) for one in said)
        anchors_M4 = anchors_of(self.first, maps, self.strides)
        boxes_BM4 = self.first.box_coder.decode(moves_BM4.detach().flatten(0, 1), [anchors_M4] * len(maps[0])).view_as(moves_BM4)
        each, sizes = len(self.first.anchor_generator.aspect_ratios[0]), self._sizes(features.batch)
        counts = [each * map_BFhw.shape[2] * map_BFhw.shape[3] for map_BFhw in maps]
        proposals, _ = self.first.filter_proposals(boxes_BM4, objectness_BM, sizes, counts)
        answer = {f"map_{level}": map_BFhw for level, map_BFhw in enumerate(maps)}
        answer |= {"objectness": objectness_BM[..., 0], "moves": moves_BM4}
        answer |= {"proposals": pad_sequence(proposals, batch_first=True), "proposed": _counts(proposals)}
        return Answer(answer if self.training else answer | self._found(maps, proposals, sizes))

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        pictures, with_objects = batch.real_B.sum().float(), (self._objects(batch) & batch.real_B).sum().float()
        counts = dict.fromkeys(("objectness", "proposals", "classes", "boxes"), pictures)
        return counts | ({"masks": with_objects} if self.masks else {})

    def loss(self, answer: Answer, batch: Batch) -> Loss:
        known, keys_B = [_known(target) for target in batch.targets], batch.keys_B
        maps = [answer[f"map_{level}"] for level in range(len(self.strides))]
        anchors_M4 = anchors_of(self.first, maps, self.strides)
        there_B, where_B = proposal_losses(self.first, answer["objectness"], answer["moves"], anchors_M4, known, keys_B)
        chosen = drawn(self.second, _parts(answer["proposals"], answer["proposed"]), known, keys_B)
        classes_B, boxes_B = region_losses(*self._read(maps, chosen.boxes), chosen)
        sums = {"objectness": there_B, "proposals": where_B, "classes": classes_B, "boxes": boxes_B}
        if self.masks:
            sums["masks"] = mask_losses(self._masks(maps, of_objects(chosen)), chosen, known)
        counts = self.counts(batch)
        return Loss.of({name: Term((values_B * batch.real_B).sum(), counts[name]) for name, values_B in sums.items()})

    def metrics(self) -> MetricCollection:
        of_boxes: dict[str, Any] = {"boxes": BoxPrecision(self.classes, self._believe)}
        return MetricCollection(of_boxes | ({"masks": MaskPrecision(self.classes)} if self.masks else {}), compute_groups=False)

    def measure(self, metrics: MetricCollection, answer: Answer, batch: Batch) -> None:
        """Boxes in pixels of the original, masks in those of the prepared picture: memory does not grow with the originals."""
        found = self._detections(answer, batch)
        box_answers.measure(metrics, found, batch)
        pairs = zip(batch.targets, found, batch.real_B.tolist(), strict=True)
        for index, (target, one, real) in enumerate(pairs if self.masks else ()):
            most = None if real else 0  # padding is a picture without anything: processes must add as many each
            masks_KHW = self._pasted(answer, index, target.frame)
            _measure_masks(metrics["masks"], masks_KHW[:most], one.scores_N[:most], one.classes_N[:most], target, most)

    def predictions(self, answer: Answer, batch: Batch) -> list[Prediction]:
        found = self._detections(answer, batch)
        said = box_answers.predictions(found, batch)
        if not self.masks:
            return said
        masks = []
        for index in batch.real_B.nonzero()[:, 0].tolist():
            frame, boxes_K4 = batch.targets[index].frame, found[index].boxes_N4
            shares_Kmm = answer["shares"][index, : len(boxes_K4)]
            masks.append(pasted(shares_Kmm.flip(-1) if frame.mirrored else shares_Kmm, boxes_K4, (frame.height, frame.width)).cpu())
        return [replace(one, masks=masks_KHW) for one, masks_KHW in zip(said, masks, strict=True)]

    def tables(self, results: dict[str, Tensor]) -> dict[str, list[list[str]]]:
        masks = {"masks": precision_table(results[PRECISIONS], self.names)} if PRECISIONS in results else {}
        return box_tables(results, self.names) | masks

    def pictures(self, answer: Answer, batch: Batch) -> dict[str, Tensor]:
        """``detections``: a row for each picture, with its true boxes and with those answered from ``threshold`` on."""
        return {"detections": box_answers.drawn(self._detections(answer, batch), batch, float(self.threshold), self.classes)}

    def _believe(self, threshold: float) -> None:
        self.threshold.fill_(threshold)

    def _maps(self, features: Features) -> list[Tensor]:
        """The pyramid's four levels, and one more of half the last one's resolution, for the anchors alone."""
        if self.windows == 1:
            tokens_BND = features.full.unnormed_BND
            assert tokens_BND is not None
            last_BDhw = rearrange(tokens_BND, "b (h w) d -> b d h w", h=self.space.rows)
        else:
            (last_BDhw,) = features.maps((self.last,), self.windows, self.whole)
        maps: list[Tensor] = self.pyramid([last_BDhw])
        return [*maps, functional.max_pool2d(maps[-1], 1, 2)]

    def _sizes(self, batch: Batch) -> list[tuple[int, int]]:
        """Height and width of the pictures without their padding."""
        whole = (self.space.height, self.space.width)
        return [(target.frame.rows, target.frame.columns) for target in batch.targets] or [whole] * len(batch)

    def _pooled(self, pool: Any, maps: list[Tensor], boxes: list[Tensor]) -> Tensor:
        """Regions as small maps; positions are in float32, whatever precision the maps have."""
        named = {str(level): map_BFhw.float() for level, map_BFhw in enumerate(maps[:-1])}
        found: Tensor = pool(named, boxes, [])
        return found.to(self.second.box_predictor.cls_score.weight.dtype)

    def _read(self, maps: list[Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits of the classes, the first the background, and how to move the box for each of them."""
        kinds_RL, moves_R = self.second.box_predictor(self.second.box_head(self._pooled(self.second.box_roi_pool, maps, boxes)))
        return kinds_RL, moves_R

    def _masks(self, maps: list[Tensor], boxes: list[Tensor]) -> Tensor:
        """Logits of a mask for every class."""
        pooled = self._pooled(self.second.mask_roi_pool, maps, boxes)
        logits: Tensor = self.second.mask_predictor(self.second.mask_head(pooled))
        return logits

    def _found(self, maps: list[Tensor], proposals: list[Tensor], sizes: list[tuple[int, int]]) -> dict[str, Tensor]:
        kinds_RL, moves_R = (one.float() for one in self._read(maps, proposals))
        boxes, scores, labels = self.second.postprocess_detections(kinds_RL, moves_R, proposals, sizes)
        parts = {"boxes": boxes, "scores": scores, "kinds": [one - 1 for one in labels]}
        if self.masks:
            parts["shares"] = [one[:, 0] for one in maskrcnn_inference(self._masks(maps, boxes).float(), labels)]
        return {name: pad_sequence(one, batch_first=True) for name, one in parts.items()} | {"found": _counts(boxes)}

    def _detections(self, answer: Answer, batch: Batch) -> list[Detections]:
        boxes, scores, kinds = (_parts(answer[name], answer["found"]) for name in ("boxes", "scores", "kinds"))
        whole = [target.frame.outward(boxes_K4) for target, boxes_K4 in zip(batch.targets, boxes, strict=True)]
        return [Detections(*parts) for parts in zip(whole, scores, kinds, strict=True)]

    def _pasted(self, answer: Answer, index: int, frame: Frame) -> Tensor:
        count = int(answer["found"][index])
        return pasted(answer["shares"][index, :count], answer["boxes"][index, :count], (frame.rows, frame.columns))

    def _objects(self, batch: Batch) -> Tensor:
        """Which pictures have an object to learn."""
        return torch.tensor([len(_known(target)["boxes"]) > 0 for target in batch.targets], device=batch.real_B.device)


def _known(target: Target) -> Known:
    """The objects that are no crowds, as torchvision's parts want them."""
    assert target.boxes is not None and target.classes is not None and target.crowds is not None
    single_N = ~target.crowds
    known = {"boxes": target.boxes[single_N], "labels": target.classes[single_N] + 1}
    return known if target.masks is None else known | {"masks": target.masks[single_N]}


def _measure_masks(metric: Any, masks_KHW: Tensor, scores_K: Tensor, kinds_K: Tensor, target: Target, most: int | None) -> None:
    frame = target.frame
    assert target.masks is not None and target.classes is not None and target.crowds is not None
    true_NHW = target.masks[:most, : frame.rows, : frame.columns]
    scale = (frame.window_height / frame.rows) * (frame.window_width / frame.columns)
    areas_N = true_NHW.flatten(1).sum(1) * scale
    metric.add(masks_KHW, scores_K, kinds_K, true_NHW, target.classes[:most], target.crowds[:most], areas_N)


def _counts(parts: list[Tensor]) -> Tensor:
    return torch.tensor([len(one) for one in parts], device=parts[0].device)


def _parts(padded: Tensor, counts_B: Tensor) -> list[Tensor]:
    """The lists that were filled up to one length."""
    return [one[:count] for one, count in zip(padded, counts_B.tolist(), strict=True)]
