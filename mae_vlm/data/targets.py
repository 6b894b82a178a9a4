"""What is known about a picture, moved along with its crop: boxes, masks and semantic maps in the pixels of the prepared picture.

Letters: N objects, H, W pixels of the prepared picture.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mae_vlm.data.transforms import Crop
from mae_vlm.frame import Whole
from mae_vlm.types import Deferred, Frame, Sample, Target

BOXES, MASKS, SEMANTIC = "boxes", "masks", "semantic"  # what a head may ask for
ORIGINAL = "original"  # the masks also in the original's own pixels, where the whole picture is looked at, as in validation
PAINTED = "painted"  # semantic maps painted from the masks of objects, where a collection has no others
BACKGROUND = "background"  # class 0 of those
_VISIBLE = 0.1  # of its box: an object that a crop leaves less of is not there
_AT_ONCE = 2**28  # bytes of whole masks


def wanted(wants: frozenset[str], known: frozenset[str]) -> frozenset[str]:
    """What is asked for, of a collection that knows so much: semantic maps are painted where it has none of its own."""
    return wants - {SEMANTIC} | {PAINTED} if SEMANTIC in wants and SEMANTIC not in known else wants


def target_of(sample: Sample, crop: Crop, height: int, width: int, wants: frozenset[str]) -> Target:
    """What ``wants`` names of the picture of ``height`` x ``width`` pixels, after ``crop``.

    A picture about which nothing is known has no objects, and a semantic map that knows nothing. ``painted`` maps are made from masks: 0 is
    the background, class ``k`` is ``k + 1``, a smaller object lies on a larger one, crowds are unknown.

    Raises:
        ValueError: masks are asked for and damaged, or not there for objects that are.
    """
    frame = crop.frame(height, width)
    size = crop.canvas or (crop.height, crop.width)
    target = Target(frame)
    if wants & {BOXES, MASKS, PAINTED}:
        _add_objects(target, sample, size, with_masks=bool(wants & {MASKS, PAINTED}))
    if ORIGINAL in wants and crop.exact:
        target.whole = _whole(sample, height, width)
    if SEMANTIC in wants:
        target.semantic = _semantic(sample.semantic, frame, size)
    if PAINTED in wants:
        target.semantic = _painted(target, sample)
    if PAINTED in wants and MASKS not in wants:
        target.masks = None
        if BOXES not in wants:
            target.boxes = target.classes = target.crowds = None
    return target


def _add_objects(target: Target, sample: Sample, size: tuple[int, int], with_masks: bool) -> None:
    frame = target.frame
    boxes_N4 = torch.zeros(0, 4) if sample.boxes is None else sample.boxes
    classes_N = torch.zeros(len(boxes_N4), dtype=torch.int64) if sample.classes is None else sample.classes
    crowds_N = torch.zeros(len(boxes_N4), dtype=torch.bool) if sample.crowds is None else sample.crowds
    inside_N4 = frame.inward(boxes_N4)
    clipped_N4 = inside_N4.clamp(min=0)
    clipped_N4 = torch.minimum(clipped_N4, clipped_N4.new_tensor([frame.columns, frame.rows, frame.columns, frame.rows]))
    share_N = _areas(clipped_N4) / _areas(inside_N4).clamp(min=1e-9)
    stays_N = share_N > _VISIBLE
    masks_NHW = None
    if with_masks:
        if sample.masks is None and len(boxes_N4):
            raise ValueError(f"{sample.id}: {len(boxes_N4)} objects without masks; leave it out, or use a head that needs boxes alone")
        masks_NHW = _masks(sample.masks, len(boxes_N4), frame, size)
        stays_N &= masks_NHW.flatten(1).any(1)
        masks_NHW = masks_NHW[stays_N]
    target.boxes, target.classes, target.crowds, target.masks = clipped_N4[stays_N], classes_N[stays_N], crowds_N[stays_N], masks_NHW


def _areas(boxes_N4: Tensor) -> Tensor:
    sides_N2 = (boxes_N4[:, 2:] - boxes_N4[:, :2]).clamp(min=0)
    return sides_N2.prod(dim=1)


def _masks(masks: Tensor | Deferred | None, count: int, frame: Frame, size: tuple[int, int]) -> Tensor:
    """Masks of the original as bool ``[N, H, W]`` of the prepared picture; many large ones are decoded some at a time."""
    if masks is None or not count:
        return torch.zeros(0, *size, dtype=torch.bool)
    prepared_NHW = torch.zeros(count, *size, dtype=torch.bool)
    for part, whole_NHW in _decoded(masks, count, frame.height * frame.width):
        prepared_NHW[part, : frame.rows, : frame.columns] = nearest(whole_NHW, frame)
    return prepared_NHW


def _whole(sample: Sample, height: int, width: int) -> Whole:
    """Every object of the original, none left out; the masks as bits, an eighth of their size."""
    count = 0 if sample.boxes is None else len(sample.boxes)
    packed = torch.zeros(count, -(-height * width // 8), dtype=torch.uint8)
    for part, whole_NHW in _decoded(sample.masks, count, height * width):
        packed[part] = torch.from_numpy(np.packbits(whole_NHW.flatten(1).numpy(), axis=1))
    classes_N = torch.zeros(count, dtype=torch.int64) if sample.classes is None else sample.classes
    crowds_N = torch.zeros(count, dtype=torch.bool) if sample.crowds is None else sample.crowds
    return Whole(packed, classes_N, crowds_N)


def _decoded(masks: Tensor | Deferred | None, count: int, pixels: int) -> Iterator[tuple[slice, Tensor]]:
    """Masks of the original, bool ``[N, height, width]``, some at a time."""
    step = max(1, _AT_ONCE // pixels)
    for start in range(0, count if masks is not None else 0, step):
        part = slice(start, start + step)
        assert masks is not None
        yield part, masks[part] if isinstance(masks, Tensor) else masks.decode(part)


def _semantic(semantic: Tensor | Deferred | None, frame: Frame, size: tuple[int, int]) -> Tensor:
    own_HW = semantic if isinstance(semantic, Tensor) else semantic.decode() if semantic is not None else None
    prepared_HW = torch.full(size, -1, dtype=torch.int16)
    if own_HW is not None:
        part_HW = nearest(own_HW, frame).to(torch.int16)
        unknown = 255 if own_HW.dtype == torch.uint8 else -1
        prepared_HW[: frame.rows, : frame.columns] = part_HW.masked_fill(part_HW == unknown, -1)
    return prepared_HW


def _painted(target: Target, sample: Sample) -> Tensor:
    """A semantic map from the masks of objects; unknown everywhere where nothing at all is known about the picture."""
    masks_NHW, classes_N, crowds_N, frame = target.masks, target.classes, target.crowds, target.frame
    assert masks_NHW is not None and classes_N is not None and crowds_N is not None
    map_HW = torch.full(masks_NHW.shape[1:], -1, dtype=torch.int16)
    if sample.boxes is None:
        return map_HW
    map_HW[: frame.rows, : frame.columns] = 0
    for index in masks_NHW.flatten(1).sum(1).argsort(descending=True, stable=True).tolist():
        map_HW[masks_NHW[index]] = -1 if crowds_N[index] else int(classes_N[index]) + 1
    return map_HW


def nearest(values: Tensor, frame: Frame) -> Tensor:
    """Numbers that must not be mixed, of the original ``[..., height, width]``: those under the middles of the prepared pixels.

    ``[..., rows, columns]``, without the padding.
    """
    down = _middles(frame.rows, frame.window_height) + frame.top
    across = _middles(frame.columns, frame.window_width) + frame.left
    across = across.flip(0) if frame.mirrored else across
    return values[..., down, :][..., across]


def outward(values: Tensor, frame: Frame) -> Tensor:
    """The way back: numbers ``[..., H, W]`` of the prepared picture at the pixels of the original, ``[..., height, width]``.

    Outside the window, of which the prepared picture knows nothing, the nearest known value is taken.
    """
    down = _middles(frame.window_height, frame.rows)
    across = _middles(frame.window_width, frame.columns)
    across = frame.columns - 1 - across if frame.mirrored else across
    down = down[(torch.arange(frame.height) - frame.top).clamp(0, frame.window_height - 1)]
    across = across[(torch.arange(frame.width) - frame.left).clamp(0, frame.window_width - 1)]
    return values[..., down.to(values.device), :][..., across.to(values.device)]


def _middles(count: int, length: int) -> Tensor:
    """Of ``length`` pixels seen as ``count``: the pixel under the middle of each, int64 ``[count]``."""
    return ((torch.arange(count, dtype=torch.float64) + 0.5) * (length / count)).long().clamp(max=length - 1)
