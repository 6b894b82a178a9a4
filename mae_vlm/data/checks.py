"""What can be wrong with the options of ``data``, told before anything is read or built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mae_vlm.data.augment import check_augment, check_pixels
from mae_vlm.data.collection import FORMATS
from mae_vlm.data.framing import Zoom
from mae_vlm.data.parts import MIXTURE
from mae_vlm.data.problems import RULES
from mae_vlm.data.sources.parts.label_values import KINDS
from mae_vlm.data.targets import BOXES, MASKS, ORIGINAL, SEMANTIC
from mae_vlm.data.transforms import Augment
from mae_vlm.types import sides

if TYPE_CHECKING:
    from mae_vlm.data.module import Data
    from mae_vlm.data.sources.base import Source
    from mae_vlm.data.summary import Summary

ORDERS = ("auto", "full", "blocks")


def check_options(data: Data) -> None:
    """Everything that is wrong whatever the collection holds.

    Raises:
        ValueError: in one line: the option, what was given, what is allowed.
    """
    if data.mixture and data.format not in ("auto", MIXTURE):
        raise ValueError(
            f"data.format {data.format} beside data.mixture, whose collections have formats of their own; set data.format auto"
        )
    if data.format not in FORMATS and not data.mixture:
        raise ValueError(f"data.format {data.format} is unknown; use one of {', '.join(FORMATS)}")
    if data.path is not None and data.mixture:
        raise ValueError(f"data.path {data.path} and data.mixture are both set; put the path into the mixture, or leave one of them out")
    if data.format not in ("auto", "scenes") and data.path is None and not data.mixture:
        raise ValueError(f"data.format {data.format} needs pictures; set data.path")
    if data.format == "scenes" and data.path is not None:
        raise ValueError(f"data.format scenes would ignore data.path {data.path}; set data.format to auto")
    for option, size in (("image_size", data.image_size), ("val_size", data.val_size)):
        if size is not None and min(sides(size)) < 1:
            raise ValueError(f"data.{option} {size} must be positive: one side, or height and width in pixels")
    if data.channels is not None and data.channels < 1:
        raise ValueError(f"data.channels {data.channels} must be at least 1: 1 for grey, 3 for RGB, more for pictures of more bands")
    if data.bits not in (None, 8, 16):
        raise ValueError(f"data.bits {data.bits} is not possible; use 8 or 16")
    if data.value_range is not None and not data.value_range[0] < data.value_range[1]:
        raise ValueError(f"data.value_range {list(data.value_range)} must be the lowest and the highest value, as [0, 10000]")
    if data.order not in ORDERS:
        raise ValueError(f"data.order {data.order} is unknown; use one of {', '.join(ORDERS)}")
    if data.bad_annotations not in RULES:
        raise ValueError(f"data.bad_annotations {data.bad_annotations} is unknown; use one of {', '.join(RULES)}")
    if not 0 <= data.max_broken <= 1:
        raise ValueError(f"data.max_broken {data.max_broken} must be a share of the pictures from 0 to 1, as 0.001")
    if data.val_fraction is not None and not 0 <= data.val_fraction < 1:
        raise ValueError(f"data.val_fraction {data.val_fraction} must be at least 0 and less than 1, as 0.05")
    for option in ("batch_size", "scenes"):
        value = getattr(data, option)
        if value is not None and value < 1:
            raise ValueError(f"data.{option} {value} must be at least 1")
    for option in ("num_workers", "val_scenes"):
        value = getattr(data, option)
        if value is not None and value < 0:
            raise ValueError(f"data.{option} {value} must be at least 0")
    if data.framing not in ("auto", "crop", "whole"):
        raise ValueError(f"data.framing {data.framing} is unknown; use one of auto, crop, whole")
    if data.columns.label_kind not in KINDS:
        raise ValueError(f"data.label_kind {data.columns.label_kind} is unknown; use one of {', '.join(KINDS)}")
    check_augment(data.rand_augment, data.erase)
    Augment((8, 8), data.crop_scale, flip=data.flip)  # checks both
    Zoom((8, 8), data.zoom)


def check_known(data: Data, summary: Summary) -> None:
    """The model's heads ask for no more than the collection knows."""
    enough = {BOXES: {BOXES}, MASKS: {MASKS}, ORIGINAL: {MASKS}, SEMANTIC: {SEMANTIC, MASKS}}
    for want in sorted(data.wants):
        if not summary.known & enough[want]:
            has = ", ".join(sorted(summary.known)) or "pictures alone"
            where = summary.path or "the generated scenes"
            raise ValueError(f"the head needs {want}, which {where} ({summary.format}) does not hold: {has}; give it with data.annotations")


def check_fit(data: Data, channels: int, bits: int, train: Source) -> None:
    """What only shows once the collection is open."""
    check_pixels(data.rand_augment, data.erase, channels, bits, data.wants)
    if data.order == "blocks" and train.block_ends is None:
        where = data.path or "the collection"
        raise ValueError(f"data.order blocks needs shards, or tables too large for memory, which {where} is not; set data.order full")
    for option, values in (("mean", data.mean), ("std", data.std)):
        if values is not None and len(values) != channels:
            raise ValueError(f"data.{option} {values} has {len(values)} numbers for {channels} channels; give one for each")
    if data.std is not None and min(data.std) <= 0:
        raise ValueError(f"data.std {data.std} must be positive, of pixels in [0, 1]")
