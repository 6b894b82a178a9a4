"""Completed pictures beside the words that they were painted from.

Letters: B pictures, C channels, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from mae_vlm.encoders.contact_sheet import contact_sheet, shown_channels

_SIDE = 128  # pixels that a tile has at least: room for words
_LINE = 15


def completed_sheet(columns: list[Tensor], texts: Sequence[str | None]) -> Tensor:
    """A row for each picture: its tile of every column (float ``[B, C, H, W]`` in [0, 1]), enlarged where small, then its words."""
    scale = max(1, -(-_SIDE // min(columns[0].shape[2:])))
    tiles = [shown_channels(one).repeat_interleave(scale, 2).repeat_interleave(scale, 3) for one in columns]
    height, width = tiles[0].shape[2:]
    return contact_sheet([*tiles, torch.stack([_words(text or "(no words)", height, width) for text in texts])])


def _words(text: str, height: int, width: int) -> Tensor:
    tile, font = Image.new("RGB", (width, height), "white"), ImageFont.load_default(_LINE - 3)
    letters = max(8, int((width - 8) / font.getlength("n")))
    ImageDraw.Draw(tile).multiline_text((4, 4), "\n".join(wrap(text, letters)), fill="black", font=font)
    found: Tensor = pil_to_tensor(tile)
    return found.float() / 255
