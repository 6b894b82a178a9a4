"""Where a vision transformer looks: the attention of its last block, as numbers and as pictures.

Letters: B pictures, C channels, H, W pixels, N patches, T tokens, G heads, R numbers per head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from mae_vlm.encoders.contact_sheet import contact_sheet, shown_channels
from mae_vlm.encoders.image import ImageTower

# dark blue over red to light yellow, even in lightness, so that a grey print reads the same
_HEAT = ((0.0, 0.0, 0.05), (0.3, 0.05, 0.45), (0.73, 0.21, 0.33), (0.98, 0.55, 0.04), (0.99, 1.0, 0.65))


class _Listener(TorchFunctionMode):
    """Keeps queries and keys (after norm and rotation) of the last attention that was computed under it."""

    def __init__(self) -> None:
        super().__init__()
        self.query: Tensor | None = None
        self.key: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention:
            self.query, self.key = args[0], args[1]
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def last_attention(encoder: ImageTower, images_BCHW: Tensor) -> Tensor | None:
    """Attention of the last block ``[B, T, T]``, mean over heads, float32: row t says where token t looks, and sums to one.

    ``images_BCHW`` are normalised pictures. None where the encoder does not attend through ``scaled_dot_product_attention``.
    """
    with _Listener() as listener:
        encoder.full(images_BCHW)
    if listener.query is None or listener.key is None:
        return None
    query_BGTR, key_BGTR = listener.query.float(), listener.key.float()
    scores_BGTT = query_BGTR @ key_BGTR.transpose(-2, -1) / query_BGTR.shape[-1] ** 0.5
    attention_BTT: Tensor = scores_BGTT.softmax(dim=-1).mean(dim=1)
    return attention_BTT


@torch.no_grad()
def attention_pictures(encoder: ImageTower, images_BCHW: Tensor) -> Tensor | None:
    """A sheet ``[3, rows, columns]``: each picture, where its class token looks, a chosen patch (framed), where that one looks.

    The chosen patch is the one with the most contrast, so that it lies on something. Without a class token the second column shows where
    all patches look on average. Each map is scaled to its own largest value.
    """
    attention_BTT = last_attention(encoder, images_BCHW)
    if attention_BTT is None:
        return None
    batch, first = torch.arange(len(images_BCHW), device=images_BCHW.device), encoder.prefix
    patches_BNP = encoder.patchify(images_BCHW)
    chosen_B = patches_BNP.var(dim=-1).argmax(dim=1)
    summary_BN = (attention_BTT[:, 0] if encoder.class_tokens else attention_BTT.mean(dim=1))[:, first:]
    shown_BCHW = shown_channels((images_BCHW * encoder.std + encoder.mean).clamp(0, 1))
    grey_B1HW = shown_BCHW.mean(dim=1, keepdim=True)
    maps = [_heated(encoder, grey_B1HW, weight_BN) for weight_BN in (summary_BN, attention_BTT[batch, first + chosen_B][:, first:])]
    return contact_sheet([shown_BCHW, maps[0], _framed(encoder, shown_BCHW, chosen_B), maps[1]])


def _heated(encoder: ImageTower, grey_B1HW: Tensor, weight_BN: Tensor) -> Tensor:
    """Colours for the weights, over a faint picture."""
    weight_BN = weight_BN / weight_BN.amax(dim=1, keepdim=True).clamp(min=1e-12)
    grid_B1hw = weight_BN.reshape(-1, 1, encoder.space.rows, encoder.space.columns)
    heat_BHW = functional.interpolate(grid_B1hw, size=grey_B1HW.shape[-2:], mode="nearest")[:, 0]
    table = torch.tensor(_HEAT, device=heat_BHW.device)
    place = heat_BHW * (len(_HEAT) - 1)
    low = place.floor().long().clamp(max=len(_HEAT) - 2)
    part = (place - low)[..., None]
    colour_BHW3 = table[low] * (1 - part) + table[low + 1] * part
    return 0.75 * colour_BHW3.movedim(-1, 1) + 0.25 * grey_B1HW


def _framed(encoder: ImageTower, shown_BCHW: Tensor, patch_B: Tensor) -> Tensor:
    """The pictures with a yellow frame around one patch each."""
    picture_B3HW, side = shown_BCHW.expand(-1, 3, -1, -1).clone(), encoder.space.patch
    yellow = torch.tensor([1.0, 0.85, 0.0], device=picture_B3HW.device).view(3, 1, 1)
    line = max(1, side // 8)
    for picture_3HW, patch in zip(picture_B3HW, patch_B.tolist(), strict=True):
        top, left = (side * place for place in divmod(patch, encoder.space.columns))
        inside = picture_3HW[:, top + line : top + side - line, left + line : left + side - line].clone()
        picture_3HW[:, top : top + side, left : left + side] = yellow
        picture_3HW[:, top + line : top + side - line, left + line : left + side - line] = inside
    return picture_B3HW
