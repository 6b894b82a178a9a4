"""The spoilt pictures side by side, for a look at what the strengths mean.

Letters: S pictures shown, R rows, C channels, H, W pixels.
"""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.functional import pil_to_tensor

from mae_vlm.encoders.contact_sheet import contact_sheet, shown_channels

_SIDE = 80  # pixels of a picture on the sheet, about
_LABEL = 116  # pixels for the names
_TITLE = 18
_GAP = 2


def sheet(rows: list[tuple[str, list[Tensor]]]) -> Tensor:
    """A row for each family: its name, then clean and every strength, for each picture; what a family lacks is left white.

    Args:
        rows: names with float ``[S, C, H, W]`` in [0, 1] for clean and each strength.

    Returns:
        uint8 ``[3, height, width]``.
    """
    most = max(len(views) for _, views in rows)
    shown = [[_sized(view) for view in views] for _, views in rows]
    white = torch.ones_like(shown[0][0])
    filled = [views + [white] * (most - len(views)) for views in shown]
    count, side = len(white), white.shape[-1]
    columns = [torch.stack([views[place][one] for views in filled]) for one in range(count) for place in range(most)]
    body = contact_sheet(columns, _GAP)
    body = (body.expand(3, -1, -1) * 255).round().to(torch.uint8)
    canvas = Image.new("RGB", (_LABEL + body.shape[2], _TITLE + body.shape[1]), "white")
    canvas.paste(Image.fromarray(body.permute(1, 2, 0).numpy()), (_LABEL, _TITLE))
    _letter(canvas, [name for name, _ in rows], ["clean", *map(str, range(1, most))] * count, white.shape[-2] + 2 * _GAP, side + 2 * _GAP)
    drawn: Tensor = pil_to_tensor(canvas)
    return drawn


def _letter(canvas: Image.Image, names: list[str], titles: list[str], row: int, column: int) -> None:
    draw = ImageDraw.Draw(canvas)
    for place, name in enumerate(names):
        draw.text((4, _TITLE + place * row + row // 2 - 6), name, fill="black")
    for place, title in enumerate(titles):
        draw.text((_LABEL + place * column + _GAP, 3), title, fill="black")


def _sized(images_SCHW: Tensor) -> Tensor:
    """Small pictures as larger squares, large ones smaller; on the CPU, in the channels that can be shown."""
    pictures = shown_channels(images_SCHW.float().cpu())
    height, width = pictures.shape[-2:]
    if max(height, width) <= _SIDE:
        return pictures.repeat_interleave(_SIDE // max(height, width), 2).repeat_interleave(_SIDE // max(height, width), 3)
    scale = 2 * _SIDE / max(height, width)
    return functional.interpolate(pictures, scale_factor=scale, mode="bilinear", antialias=True).clamp(0, 1) if scale < 1 else pictures
