"""Boxes drawn on pictures, true ones beside answered ones.

Letters: B pictures, N objects, C channels, H, W pixels, L classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.utils import draw_bounding_boxes

from mae_vlm.encoders.contact_sheet import contact_sheet, shown_channels
from mae_vlm.heads.parts.palette import palette
from mae_vlm.types import Batch

_WANTED = 480  # pixels of a drawn picture's longer side, about; small ones are enlarged


def side_by_side(batch: Batch, found: list[tuple[Tensor, Tensor]], classes: int) -> Tensor:
    """A row for each picture, with its true boxes and with those found, as float ``[3, H, W]`` in [0, 1].

    ``found`` are boxes ``[N, 4]`` in pixels of the prepared picture with their classes ``[N]``.
    """
    true = [(target.boxes, target.classes) for target in batch.targets]
    columns = []
    for said in (true, found):
        drawn = [drawing(image, *one, classes) for image, one in zip(batch.images_BCHW, said, strict=True)]  # type: ignore[arg-type]
        columns.append(torch.stack(drawn).float() / 255)
    return contact_sheet(columns)


def drawing(image_CHW: Tensor, boxes_N4: Tensor, classes_N: Tensor, classes: int, words: list[str] | None = None) -> Tensor:
    """A picture (uint8, uint16 or float 0 to 1) with boxes in a fixed colour for each class, as uint8 ``[3, H, W]`` on the CPU.

    Small ones are enlarged by a whole factor first, so that lines and ``words`` (one for each box) can be told apart.
    """
    scale = {torch.uint8: 255.0, torch.uint16: 65535.0}.get(image_CHW.dtype, 1.0)
    shown = shown_channels(image_CHW.cpu().float() / scale).clamp(0, 1)
    factor = max(1, _WANTED // max(shown.shape[1:]))
    large_CHW = (shown * 255).round().to(torch.uint8).expand(3, -1, -1).repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    boxes_N4, classes_N = boxes_N4.cpu() * factor, classes_N.cpu()
    boxes_N4 = torch.cat([boxes_N4[:, :2], torch.maximum(boxes_N4[:, 2:], boxes_N4[:, :2] + 1)], 1)
    if not len(boxes_N4):
        return large_CHW.contiguous()
    colours_L3 = palette(classes + 1)[1:]  # the first is black
    colours: list[str | tuple[int, ...]] = [tuple(colours_L3[number].tolist()) for number in classes_N.tolist()]
    drawn: Tensor = draw_bounding_boxes(large_CHW, boxes_N4, labels=words, colors=colours, width=2)
    return drawn
