"""Other ways through a vision transformer than from end to end: tapped after some blocks, in windows, or held before the last blocks.

Letters: B pictures, C channels, H, W pixels, h, w patches down and across, N patches, T tokens, D width, V windows of a picture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mae_vlm.encoders.image import ImageTower


@dataclass(frozen=True)
class Held:
    """Tokens before the last blocks, and these blocks, for a head whose own tokens go through them too.

    ``tokens_BTD`` begins with ``prefix`` class and register tokens. The head runs ``blocks`` and then ``norm`` itself, and keeps neither.
    """

    tokens_BTD: Tensor
    prefix: int
    blocks: list[nn.Module]
    norm: nn.Module

    def rows(self, index_R: Tensor) -> Held:
        """These rows of the batch."""
        return replace(self, tokens_BTD=self.tokens_BTD[index_R])


def tapped(encoder: ImageTower, images_BCHW: Tensor, taps: tuple[int, ...], windows: int = 1, whole: tuple[int, ...] = ()) -> list[Tensor]:
    """Patch tokens after each of the blocks ``taps`` (counted from 0), not normed, as maps ``[B, D, h, w]``.

    ``images_BCHW`` are normalised pictures. With ``windows`` above 1 the grid is cut into ``windows`` x ``windows`` equal parts, between
    which only the blocks ``whole`` attend; class and register tokens are left out then, since each stands for the whole picture
    (Li et al. 2022, arXiv 2203.16527, section 3; the equal windows are LW-DETR's, arXiv 2406.03459, section 3.2).

    Raises:
        ValueError: a tap that there is no block for, a grid that the windows do not divide, or windows of an encoder with rotary
            positions, whose blocks expect the class and register tokens.
    """
    depth, space = len(encoder.vit.blocks), encoder.space
    if not taps or min((*taps, *whole)) < 0 or max((*taps, *whole)) >= depth:
        raise ValueError(f"taps {taps} and whole blocks {whole} given, the encoder's blocks are numbered 0 to {depth - 1}")
    images_BCHW = images_BCHW.to(encoder.vit.patch_embed.proj.weight.dtype)
    if windows == 1:
        _, maps = encoder.vit.forward_intermediates(images_BCHW, indices=sorted(set(taps)), norm=False)
        return [maps[sorted(set(taps)).index(tap)] for tap in taps]
    if space.rows % windows or space.columns % windows:
        raise ValueError(f"a grid of {space.rows} x {space.columns} patches cannot be cut into {windows} x {windows} equal windows")
    if _rotary(encoder):
        raise ValueError(f"{encoder.architecture} has rotary positions and cannot be cut into windows; use 1 window")
    tokens_BND = _embedded(encoder, images_BCHW)[:, encoder.prefix :]
    split = {"v": windows, "q": windows, "h": space.rows // windows}
    tokens = rearrange(tokens_BND, "b (v h q w) d -> (b v q) (h w) d", **split)
    maps = []
    for number, block in enumerate(encoder.vit.blocks):
        if number in whole:
            joined = rearrange(tokens, "(b v) k d -> b (v k) d", v=windows**2)
            tokens = rearrange(_run(encoder, block, joined), "b (v k) d -> (b v) k d", v=windows**2)
        else:
            tokens = _run(encoder, block, tokens)
        if number in taps:
            maps.append(rearrange(tokens, "(b v q) (h w) d -> b d (v h) (q w)", **split))
    return [maps[sorted(set(taps)).index(tap)] for tap in taps]


def held(encoder: ImageTower, images_BCHW: Tensor, last: int) -> Held:
    """All tokens of normalised pictures before the ``last`` blocks.

    Raises:
        ValueError: more blocks than there are, or an encoder with rotary positions, whose blocks take no further tokens.
    """
    blocks = list(encoder.vit.blocks)
    if not 0 < last <= len(blocks):
        raise ValueError(f"the last {last} blocks asked for, the encoder has {len(blocks)}")
    if _rotary(encoder):
        raise ValueError(f"{encoder.architecture} has rotary positions, among which a head's own tokens have no place; use another encoder")
    tokens_BTD = _embedded(encoder, images_BCHW.to(encoder.vit.patch_embed.proj.weight.dtype))
    for block in blocks[:-last]:
        tokens_BTD = _run(encoder, block, tokens_BTD)
    return Held(tokens_BTD, encoder.prefix, blocks[-last:], encoder.vit.norm)


def _rotary(encoder: ImageTower) -> bool:
    return getattr(encoder.vit, "rope", None) is not None


def _embedded(encoder: ImageTower, images_BCHW: Tensor) -> Tensor:
    """All tokens with their positions ``[B, T, D]``, of an encoder without rotary ones."""
    placed = encoder.vit._pos_embed(encoder.vit.patch_embed(images_BCHW))
    tokens_BTD: Tensor = encoder.vit.norm_pre(placed[0] if isinstance(placed, tuple) else placed)
    return tokens_BTD


def _run(encoder: ImageTower, block: nn.Module, tokens_BTD: Tensor) -> Tensor:
    again = encoder.vit.grad_checkpointing and torch.is_grad_enabled()
    result: Tensor = checkpoint(block, tokens_BTD, use_reentrant=False) if again else block(tokens_BTD)
    return result
