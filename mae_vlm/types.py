"""The nouns that cross rooms: what a source yields, what a step receives, what an objective or a head returns.

Shape letters used in this project (suffixes of tensor names):
    B pictures in a batch   C channels   H, W pixels down and across
    N patches of a picture  K visible patches   M hidden patches
    T tokens in the encoder (prefix tokens and patches)   D width   P pixels of a patch (patch * patch * C)   L classes
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mae_vlm.frame import Frame as Frame
from mae_vlm.frame import Target as Target
from mae_vlm.frame import changed
from mae_vlm.said import Answer as Answer
from mae_vlm.said import Loss as Loss
from mae_vlm.said import Prediction as Prediction
from mae_vlm.said import Said as Said
from mae_vlm.said import Term as Term

CHECKPOINT_KEY = "mae_vlm"  # a checkpoint of ours holds {format, config (YAML)} under this name
CHECKPOINT_FORMAT = 1  # raised when the layout of a checkpoint changes


def sides(size: int | tuple[int, int] | list[int]) -> tuple[int, int]:
    """(height, width) in pixels of a size given as one side or as both."""
    if isinstance(size, int):
        return size, size
    height, width = size
    return int(height), int(width)


class Question(NamedTuple):
    """A question about a picture and what people answered: one or more, the same answer as often as it was given.

    ``choices`` are what one must choose from, where the question says so; ``answers`` is then the right one. A ``rationale`` asks why
    the answer to the question before it is right.
    """

    text: str
    answers: tuple[str, ...]
    choices: tuple[str, ...] = ()
    rationale: bool = False


class Deferred(Protocol):
    """Masks that are still encoded: a run that needs no masks never decodes them."""

    def decode(self, objects: slice = slice(None)) -> Tensor:
        """The pixels, of these objects where there are several; ValueError where they are damaged or not of the picture's size."""
        ...


@dataclass
class Sample:
    """One picture and what is known about it, as a source reads it.

    ``image`` is the encoded file (``bytes``), or the path of a file too large to be read whole (TIFF), as long as nobody needs
    pixels; generated pictures are uint8 ``[C, H, W]``. Everything below is in pixels of that picture as it is shown (after EXIF rotation).

    Attributes:
        label: class number in ``source.classes``.
        values: float32, where there is no single class: 1 or 0 for each of ``source.classes``, or the numbers to learn.
        captions: sentences that are true of the picture.
        boxes: float32 ``[objects, 4]``: left, top, right, bottom, the last two exclusive.
        classes: int64 ``[objects]``: numbers in ``source.object_classes``.
        masks: bool ``[objects, H, W]``, or not decoded yet.
        crowds: bool ``[objects]``: the region holds many objects in one (COCO's ``iscrowd``); None where there is none.
        box_captions: a phrase for each box (Visual Genome), or empty.
        semantic: uint8 or int16 ``[H, W]``, numbers in ``source.object_classes``, 255 (int16: -1) where nothing is known; or not decoded.
        partner: the right one of a pair of pictures of which ``image`` is the left one; whatever is said is said of both.
    """

    id: str
    image: bytes | Tensor | Path
    label: int | None = None
    captions: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()
    boxes: Tensor | None = None
    classes: Tensor | None = None
    masks: Tensor | Deferred | None = None
    crowds: Tensor | None = None
    box_captions: tuple[str, ...] = ()
    semantic: Tensor | Deferred | None = None
    values: Tensor | None = None
    partner: bytes | Tensor | Path | None = None


class Broken(NamedTuple):
    """A sample that could not be read, and why."""

    id: str
    reason: str


@dataclass
class Batch:
    """What one process receives for one (micro-)step.

    ``images_BCHW`` is uint8, or uint16 with ``data.bits`` 16: it is normalised on the device. ``keys_B`` (int64) stands for
    (seed, epoch, sample) and is the only source of chance in a step. ``real_B`` is False where a sample only fills up the last batch of a
    validation set and must count zero. ``labels_B`` is -1 where there is none. ``soft_labels_BL`` (float32) are shares of the classes, a
    yes or no for each, or numbers to learn, NaN in a row of which nothing is known; None where no picture has any. ``captions`` and
    ``questions`` are empty lists where no picture of the batch has any. ``targets`` holds one for each picture where a head asked for
    boxes, masks or semantic maps, else it is empty. ``second_BCHW`` is another crop of each picture where an objective wants two views.
    ``partner_BCHW`` are the right ones of pairs of pictures; one that has no partner stands beside itself; None where no picture has one.
    ``broken`` tells which samples could not be read and have a substitute here.
    """

    images_BCHW: Tensor
    keys_B: Tensor
    real_B: Tensor
    labels_B: Tensor
    ids: list[str] = field(default_factory=list)
    captions: list[tuple[str, ...]] = field(default_factory=list)
    questions: list[tuple[Question, ...]] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    soft_labels_BL: Tensor | None = None
    second_BCHW: Tensor | None = None
    partner_BCHW: Tensor | None = None

    def __len__(self) -> int:
        return self.images_BCHW.shape[0]

    def __getitem__(self, part: slice) -> Batch:
        whole = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "broken"}
        return replace(self, **{name: value[part] for name, value in whole.items() if value is not None})

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory (torch's DataLoader calls this)."""
        return self._each(lambda value: value.pin_memory())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on another device; to a GPU without waiting, which is safe from page-locked memory."""
        non_blocking = non_blocking or torch.device(device).type == "cuda"
        return self._each(lambda value: value.to(device, non_blocking=non_blocking))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return replace(self, **changed(self, change), targets=[target.each(change) for target in self.targets])


@dataclass(frozen=True)
class TokenSpace:
    """The grid of square patches that a picture of ``height`` x ``width`` pixels is cut into.

    Raises:
        ValueError: a side is not a multiple of the patch, or a size is not positive.
    """

    height: int
    width: int
    patch: int
    channels: int = 3

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.patch, self.channels) < 1:
            raise ValueError(
                f"sizes must be positive: height {self.height}, width {self.width}, patch {self.patch}, channels {self.channels}"
            )
        for side, pixels in (("height", self.height), ("width", self.width)):
            if pixels % self.patch:
                near = max(self.patch, round(pixels / self.patch) * self.patch)
                raise ValueError(
                    f"image {side} {pixels} is not a multiple of the patch {self.patch}; set data.image_size to {near}, or another patch"
                )

    @property
    def rows(self) -> int:
        return self.height // self.patch

    @property
    def columns(self) -> int:
        return self.width // self.patch

    @property
    def patches(self) -> int:
        return self.rows * self.columns

    @property
    def patch_pixels(self) -> int:
        """Numbers in one patch: patch * patch * channels."""
        return self.patch * self.patch * self.channels


@dataclass(frozen=True)
class Masking:
    """Which patches the encoder sees: a ranking of all patches, cut in two.

    ``keep_BK`` and ``hide_BM`` (int64) together hold every patch index once.
    """

    keep_BK: Tensor
    hide_BM: Tensor

    def hidden_BN(self) -> Tensor:
        """Float mask in patch order: 1 where the patch is hidden (the paper's convention)."""
        mask_BN = self.keep_BK.new_ones(len(self.keep_BK), self.keep_BK.shape[1] + self.hide_BM.shape[1], dtype=torch.float32)
        return mask_BN.scatter_(1, self.keep_BK, 0.0)


@dataclass(frozen=True)
class Encoded:
    """Features of one view: ``tokens_BTD`` = ``prefix`` class and register tokens, then patches, after the final norm.

    ``unnormed_BND`` are the patches alone before that norm, where the whole picture was seen: for heads with a norm of their own.
    """

    tokens_BTD: Tensor
    prefix: int
    unnormed_BND: Tensor | None = None

    def rows(self, index_R: Tensor) -> Encoded:
        """These rows of the batch."""
        return Encoded(self.tokens_BTD[index_R], self.prefix, None if self.unnormed_BND is None else self.unnormed_BND[index_R])

    @property
    def patches_BND(self) -> Tensor:
        return self.tokens_BTD[:, self.prefix :]

    @property
    def prefix_BTD(self) -> Tensor:
        return self.tokens_BTD[:, : self.prefix]
