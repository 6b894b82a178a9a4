"""True and answered maps drawn on pictures.

Letters: B pictures, C channels, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mae_vlm.encoders.contact_sheet import contact_sheet, shown_channels
from mae_vlm.heads.parts.palette import painted, palette

_OPAQUE = 0.6
_COLOURS = 255  # numbers of segments that are told apart


def side_by_side(images_BCHW: Tensor, truths: Sequence[Tensor], answers: Sequence[Tensor], classes: int | None) -> Tensor:
    """A row for each picture: itself, the true map on it, the answered map on it; float ``[3, rows, columns]``.

    Maps hold class numbers, -1 for the unknown, or without ``classes`` numbers of segments, 0 for none; they may lack the padding.
    """
    scale = {torch.uint8: 255.0, torch.uint16: 65535.0}.get(images_BCHW.dtype, 1.0)
    shown_BCHW = shown_channels(images_BCHW.float() / scale)
    shown_B3HW = shown_BCHW.expand(-1, 3, -1, -1)
    return contact_sheet([shown_B3HW, _covered(shown_B3HW, truths, classes), _covered(shown_B3HW, answers, classes)])


def _covered(shown_B3HW: Tensor, maps: Sequence[Tensor], classes: int | None) -> Tensor:
    whole = torch.full((len(maps), *shown_B3HW.shape[-2:]), -1, dtype=torch.int64, device=shown_B3HW.device)
    for row, one in zip(whole, maps, strict=True):
        numbers = one.long() if classes is not None else torch.where(one > 0, one.long() % _COLOURS + 1, -1)
        row[: one.shape[0], : one.shape[1]] = numbers
    colours_B3HW = painted(whole, palette(_COLOURS + 1 if classes is None else classes))
    return torch.where(whole[:, None] >= 0, _OPAQUE * colours_B3HW + (1 - _OPAQUE) * shown_B3HW, shown_B3HW)
