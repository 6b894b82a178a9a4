"""Words below pictures.

Letters: B pictures, C channels, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from mae_vlm.encoders.contact_sheet import contact_sheet
from mae_vlm.heads.parts.box_drawing import drawing
from mae_vlm.types import Batch

_NOTHING = torch.zeros(0, 4)
_SIZE = 20  # pixels of a line
_EDGE = 6


def with_words(image_CHW: Tensor, lines: Sequence[str], least: int = 0) -> Tensor:
    """A picture (uint8, uint16 or float 0 to 1), enlarged where it is small, above its lines of text: uint8 ``[3, H, W]``.

    There is room for ``least`` lines or more; long ones are wrapped. PIL's own font knows Latin letters.
    """
    picture = to_pil_image(drawing(image_CHW, _NOTHING, _NOTHING[:, 0].long(), 1))
    wrapped = _wrapped(lines, picture.width)
    below = 2 * _EDGE + _SIZE * max(least, len(wrapped))
    sheet = Image.new("RGB", (picture.width, picture.height + below), "white")
    sheet.paste(picture, (0, 0))
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(wrapped):
        draw.text((_EDGE, picture.height + _EDGE + number * _SIZE), line, fill="black", font=ImageFont.load_default(_SIZE - 5))
    found: Tensor = pil_to_tensor(sheet)
    return found


def word_sheet(batch: Batch, lines: Sequence[Sequence[str]]) -> Tensor:
    """All pictures of a batch, each above its lines, in two columns where their number allows: float ``[3, H, W]`` in [0, 1]."""
    width = with_words(batch.images_BCHW[0], []).shape[2]
    least = max(len(_wrapped(some, width)) for some in lines)
    drawn_BCHW = torch.stack([with_words(*pair, least) for pair in zip(batch.images_BCHW, lines, strict=True)]).float() / 255
    across = 2 - len(drawn_BCHW) % 2
    return contact_sheet([drawn_BCHW[column::across] for column in range(across)])


def _wrapped(lines: Sequence[str], width: int) -> list[str]:
    letters = max(8, int((width - 2 * _EDGE) / ImageFont.load_default(_SIZE - 5).getlength("n")))
    return [part for line in lines for part in wrap(line, letters) or [""]]
