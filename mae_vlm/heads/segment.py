"""What every pixel belongs to: semantic segmentation.

Letters: B pictures, D width, H, W pixels, L classes, h, w cells of a map of scores, down and across.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional
from torchmetrics import MetricCollection

from mae_vlm.data.summary import Summary
from mae_vlm.data.targets import SEMANTIC, outward
from mae_vlm.encoders.contact_sheet import contact_sheet, shown_channels
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.heads.base import Head
from mae_vlm.heads.parts.decoder import Convolution, Decoder, Linear
from mae_vlm.heads.parts.palette import painted, palette
from mae_vlm.heads.parts.segment_metrics import segment_metrics, segment_tables
from mae_vlm.heads.parts.windows import through_windows
from mae_vlm.types import Answer, Batch, Loss, Prediction, Term

_NEVER = -1e4  # the score of a class that stands for the unknown; half precision holds it
_NUMBERS_AT_ONCE = 1 << 25  # scores at the pictures' own resolution that exist at one time outside of training: 128 MiB in float32


class Segment(Head):
    """A decoder on the encoder's maps, its scores at every pixel by bilinear interpolation, cross-entropy of the known ones.

    The answer's tensor ``logits`` is ``[B, classes, h, w]``, with ``h`` and ``w`` multiples of the grid of patches. Outside of training,
    pictures larger than the encoder's own (``data.val_size``) are looked at through overlapping windows. The encoder's final norm is not
    used: decoders bring their own.

    Args:
        towers, weight: see :class:`Head`.
        classes: their names in the order of their numbers, or how many. The CLI takes them from the data.
        decoder: what makes scores of maps: ``mae_vlm.heads.parts.decoder.Linear``, ``mae_vlm.heads.parts.upernet.UperNet``.
        ignore: names or numbers of classes that stand for the unknown, as a "void" that a collection counts among its classes.
        auxiliary: weight of the loss of a second, small decoder on a middle block, in training alone (0.4 beside UPerNet); 0 for none.
        overlap: share of a window that the next one covers too.

    Raises:
        ValueError: an option out of its range.
    """

    wants: ClassVar[frozenset[str]] = frozenset({SEMANTIC})
    learns: ClassVar[str] = "semantic_classes"
    normed: ClassVar[bool] = False
    windowed: ClassVar[bool] = True
    silent_L11: Tensor

    def __init__(
        self,
        towers: Towers,
        weight: float = 1.0,
        classes: int | list[str] | None = None,
        decoder: Callable[[Towers, int], Decoder] = Linear,
        ignore: list[str | int] | None = None,
        auxiliary: float = 0.0,
        overlap: float = 0.5,
    ) -> None:
        super().__init__(towers, weight)
        if classes is None:
            raise ValueError("a segmenter needs its classes, their number or names; the command line takes them from the data")
        if auxiliary < 0 or not 0 <= overlap < 1:
            raise ValueError(f"auxiliary {auxiliary} must be a weight of 0 or more, and overlap {overlap} a share from 0 to below 1")
        self.names = [str(number) for number in range(classes)] if isinstance(classes, int) else list(classes)
        self.classes, self.named = len(self.names), not isinstance(classes, int)
        self.ignored = _numbers(ignore or [], self.names)
        if self.classes - len(self.ignored) < 2:
            raise ValueError(f"classes {self.names} with {ignore or 'none'} ignored given; two that are not are needed")
        self.space, self.overlap, self.auxiliary_weight = towers.image.space, overlap, auxiliary
        self.decoder = decoder(towers, self.classes)
        self.auxiliary = Convolution(towers, self.classes) if auxiliary else None
        self.last = len(towers.image.vit.blocks) - 1
        self.taps = tuple(sorted({*self.decoder.taps, *(self.auxiliary.taps if self.auxiliary else ())}))
        silent_L11 = torch.tensor([number in self.ignored for number in range(self.classes)])[:, None, None]
        self.register_buffer("silent_L11", silent_L11, persistent=False)
        self.best = ("miou", True)

    def check(self, summary: Summary) -> None:
        where, found = summary.path or "the collection", summary.semantic_classes
        if found is None:
            raise ValueError(f"{where} has no class for every pixel to learn; give masks with data.annotations")
        if len(found) != self.classes or (self.named and found != self.names):
            raise ValueError(f"{where} has the classes {_few(found)}, this segmenter {_few(self.names)}; give data of the same classes")

    def forward(self, features: Features) -> Answer:
        answer = {"logits": through_windows(features, self.space, self._scores, self.overlap)}
        if self.auxiliary is not None and self.training:
            answer["auxiliary"] = self.auxiliary(self._maps(features, self.auxiliary.taps))
        return Answer(answer)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        known = (self._target_BHW(batch) >= 0).sum().float()
        return dict.fromkeys(["cross_entropy", *(["auxiliary"] if self.auxiliary is not None and self.training else [])], known)

    def loss(self, answer: Answer, batch: Batch) -> Loss:
        target_BHW, counts = self._target_BHW(batch), self.counts(batch)
        tensors = {"cross_entropy": answer["logits"], "auxiliary": answer.tensors.get("auxiliary")}
        weights = {"cross_entropy": 1.0, "auxiliary": self.auxiliary_weight}
        terms = {}
        for name, count in counts.items():
            logits_BLhw = tensors[name]
            assert logits_BLhw is not None
            terms[name] = Term(self._summed_error(logits_BLhw, target_BHW), count, weights[name])
        return Loss.of(terms)

    def metrics(self) -> MetricCollection:
        return segment_metrics(self.classes)

    def measure(self, metrics: MetricCollection, answer: Answer, batch: Batch) -> None:
        target_BHW = self._target_BHW(batch)
        for part, scores_BLHW in self._whole_scores(answer["logits"], target_BHW.shape[-2:]):
            metrics.update(scores_BLHW.argmax(dim=1), target_BHW[part])

    def predictions(self, answer: Answer, batch: Batch) -> list[Prediction]:
        classes_BHW, real = self._classes_BHW(answer, batch), batch.real_B.tolist()
        kind = torch.uint8 if self.classes <= 255 else torch.int16
        found = zip(batch.ids, classes_BHW.to(kind), batch.targets, real, strict=True)
        return [Prediction(id, semantic=outward(classes_HW, target.frame).cpu()) for id, classes_HW, target, keep in found if keep]

    def tables(self, results: dict[str, Tensor]) -> dict[str, list[list[str]]]:
        return segment_tables(results, self.names)

    def pictures(self, answer: Answer, batch: Batch) -> dict[str, Tensor]:
        """``segmentation``: a row for each picture, of it, of its true classes in fixed colours, and of the answered ones."""
        colours_L3 = palette(self.classes)
        scale = {torch.uint8: 255.0, torch.uint16: 65535.0}.get(batch.images_BCHW.dtype, 1.0)
        shown = shown_channels(batch.images_BCHW.float() / scale)
        maps = [self._target_BHW(batch), self._classes_BHW(answer, batch)]
        return {"segmentation": contact_sheet([shown, *(painted(one, colours_L3) for one in maps)])}

    def _scores(self, features: Features) -> Tensor:
        logits_BLhw: Tensor = self.decoder(self._maps(features, self.decoder.taps))
        return logits_BLhw.masked_fill(self.silent_L11, _NEVER) if self.ignored else logits_BLhw

    def _maps(self, features: Features, taps: tuple[int, ...]) -> list[Tensor]:
        """Of all blocks that the decoders need in one pass, those after ``taps``; the last one's alone in that which other heads share."""
        if self.taps == (self.last,):
            tokens_BND = features.full.unnormed_BND
            assert tokens_BND is not None
            return [rearrange(tokens_BND, "b (h w) d -> b d h w", h=self.space.rows)]
        maps = features.maps(self.taps)
        return [maps[self.taps.index(tap)] for tap in taps]

    def _target_BHW(self, batch: Batch) -> Tensor:
        """int64, -1 where nothing is known or a picture only fills up a batch."""
        maps = [target.semantic for target in batch.targets if target.semantic is not None]
        target_BHW = torch.stack(maps).long()
        for number in self.ignored:
            target_BHW = target_BHW.masked_fill(target_BHW == number, -1)
        return target_BHW.masked_fill(~batch.real_B[:, None, None], -1)

    def _summed_error(self, logits_BLhw: Tensor, target_BHW: Tensor) -> Tensor:
        """Cross-entropy summed over the known pixels."""
        parts = self._whole_scores(logits_BLhw, target_BHW.shape[-2:])
        errors = [functional.cross_entropy(scores, target_BHW[part], ignore_index=-1, reduction="sum") for part, scores in parts]
        return torch.stack(errors).sum()

    def _classes_BHW(self, answer: Answer, batch: Batch) -> Tensor:
        parts = self._whole_scores(answer["logits"], batch.images_BCHW.shape[-2:])
        return torch.cat([scores_BLHW.argmax(dim=1) for _, scores_BLHW in parts])

    def _whole_scores(self, logits_BLhw: Tensor, size: tuple[int, ...]) -> Iterator[tuple[slice, Tensor]]:
        """Scores at every pixel, float32, of so many pictures at a time as memory is bounded to."""
        step = max(1, _NUMBERS_AT_ONCE // (logits_BLhw.shape[1] * size[0] * size[1]))
        for start in range(0, len(logits_BLhw), step):
            part = slice(start, start + step)
            yield part, functional.interpolate(logits_BLhw[part].float(), size=tuple(size), mode="bilinear", align_corners=False)


def _numbers(ignore: list[str | int], names: list[str]) -> list[int]:
    found = []
    for one in ignore:
        number = one if isinstance(one, int) else names.index(one) if one in names else -1
        if not 0 <= number < len(names):
            raise ValueError(f"ignore {one} is none of the classes {_few(names)}; give names, or numbers from 0")
        found.append(number)
    return sorted(set(found))


def _few(names: list[str]) -> str:
    return f"{', '.join(names[:5])}{f' ... ({len(names)})' if len(names) > 5 else ''}"
