"""Prepared samples to a batch: one stack of pixels, and the key of each sample that all its chance comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mae_vlm.data.sampler import Draw
from mae_vlm.data.split import name_hash
from mae_vlm.tokens.chance import key_of
from mae_vlm.types import Batch, Broken, Sample, Target


def sample_key(seed: int, epoch: int, id: str) -> int:
    """The key of one sample in one epoch: it goes by the sample's name, so it stays as pictures are added."""
    return key_of(seed, epoch, name_hash(id))


class Ready(NamedTuple):
    """A sample whose picture is prepared: its key and final pixels ``[C, H, W]``; ``counts`` is False for some substitutes.

    ``target`` is what is known about it in those pixels, ``second_CHW`` another view of the picture, where somebody asked; ``partner_CHW``
    is the right one of a pair of pictures.
    """

    sample: Sample
    key: int
    pixels_CHW: Tensor
    counts: bool = True
    target: Target | None = None
    second_CHW: Tensor | None = None
    partner_CHW: Tensor | None = None


def collate(ready: Sequence[Ready], draws: Sequence[Draw], broken: Sequence[Broken] = ()) -> Batch:
    """The batch of prepared samples, whose pictures are of one size; ``draws`` tell which are real, ``broken`` what could not be read."""
    samples = [item.sample for item in ready]
    return Batch(
        images_BCHW=_stacked([item.pixels_CHW for item in ready]),
        keys_B=torch.tensor([item.key for item in ready], dtype=torch.int64),
        real_B=torch.tensor([draw.real and item.counts for draw, item in zip(draws, ready, strict=True)]),
        labels_B=torch.tensor([-1 if sample.label is None else sample.label for sample in samples], dtype=torch.int64),
        ids=[sample.id for sample in samples],
        captions=[sample.captions for sample in samples] if any(sample.captions for sample in samples) else [],
        questions=[sample.questions for sample in samples] if any(sample.questions for sample in samples) else [],
        targets=[item.target for item in ready if item.target is not None],
        broken=list(broken),
        second_BCHW=_stacked(second) if (second := [item.second_CHW for item in ready if item.second_CHW is not None]) else None,
        soft_labels_BL=_values([sample.values for sample in samples]),
        partner_BCHW=_partners(ready),
    )


def _partners(ready: Sequence[Ready]) -> Tensor | None:
    """The right pictures; in a mixture with single ones, these stand beside themselves."""
    if all(item.partner_CHW is None for item in ready):
        return None
    return _stacked([item.pixels_CHW if item.partner_CHW is None else item.partner_CHW for item in ready])


def _values(values: Sequence[Tensor | None]) -> Tensor | None:
    """``[B, L]``, NaN where nothing is known; None where that is so of all."""
    known = next((value for value in values if value is not None), None)
    if known is None:
        return None
    return torch.stack([torch.full_like(known, float("nan")) if value is None else value for value in values])


def _stacked(pixels: Sequence[Tensor]) -> Tensor:
    """One ``[B, C, H, W]`` of pictures, in the order of memory that the first has: decoders put the channels of a pixel side by side."""
    if pixels[0].stride(0) == 1 and len(pixels[0]) > 1:
        return torch.stack([image_CHW.permute(1, 2, 0) for image_CHW in pixels]).permute(0, 3, 1, 2)
    return torch.stack(list(pixels))
