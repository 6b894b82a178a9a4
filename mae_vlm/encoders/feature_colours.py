"""Patch features as colours: their three main directions as red, green and blue.

Letters: B pictures, C channels, H, W pixels, N patches, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mae_vlm.encoders.contact_sheet import contact_sheet, shown_channels
from mae_vlm.encoders.image import ImageTower


def main_directions(features_FD: Tensor, count: int = 3) -> Tensor:
    """The first principal directions ``[D, count]`` of centred features, largest first, each with its largest entry positive.

    Computed in float64; a direction is unique only up to its sign, which is fixed so that two runs show the same colours.
    """
    centred = features_FD.double() - features_FD.double().mean(dim=0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    directions = vectors.flip(1)[:, :count]
    largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
    signed: Tensor = (directions * largest.sign()).to(features_FD.dtype)
    return signed


@torch.no_grad()
def colour_pictures(encoder: ImageTower, images_BCHW: Tensor) -> Tensor:
    """A sheet ``[C, rows, columns]``: each picture beside its patches' features as colours, whole and without what tells their place.

    A young encoder's features tell above all where in the picture a patch is, which drowns what is there. So a third column shows
    them less the mean of each place over the pictures; with one picture alone it is left out.
    """
    patches_BND = encoder.full(images_BCHW).patches_BND.float()
    features = [patches_BND] if len(patches_BND) < 2 else [patches_BND, patches_BND - patches_BND.mean(dim=0)]
    size, grid = images_BCHW.shape[-2:], (encoder.space.rows, encoder.space.columns)
    coloured = [functional.interpolate(_colours(one).mT.reshape(-1, 3, *grid), size=size, mode="nearest") for one in features]
    shown_BCHW = (images_BCHW * encoder.std + encoder.mean).clamp(0, 1)
    return contact_sheet([shown_channels(shown_BCHW), *coloured])


def _colours(patches_BND: Tensor) -> Tensor:
    """Features as colours ``[B, N, 3]`` from 0 to 1, of which each runs from its 2nd to its 98th percentile.

    The directions are those of all patches of all the pictures together: the same colour means a like feature across pictures.
    """
    flat = patches_BND.flatten(0, 1)
    values = (flat - flat.mean(dim=0)) @ main_directions(flat)
    low, high = (values.quantile(part, dim=0) for part in (0.02, 0.98))
    values = ((values - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    return values.view(*patches_BND.shape[:2], -1)
