"""Blurs whose size is a share of the picture, so that small and large pictures lose alike.

A picture is taken as what bilinear interpolation makes of its pixels, and averaged over a disc, a bell or a line; so a radius of a third
of a pixel, which pictures of 32 pixels have, blurs a little instead of not at all.

Letters: B pictures, C channels, H, W pixels, P points, K pixels of a kernel's side.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from mae_vlm.tokens.chance import uniform


def defocus(images_BCHW: Tensor, keys_B: Tensor, radius: float) -> Tensor:
    """The mean over a disc of ``radius``, in shares of the shorter side."""
    inside_P = _ladder(_pixels(images_BCHW, radius))
    points_P2 = torch.cartesian_prod(inside_P, inside_P)
    points_P2 = points_P2[points_P2.square().sum(1) <= inside_P[-1] ** 2 * 1.0001]
    return _averaged(images_BCHW, points_P2[None], torch.ones(len(points_P2)))


def gaussian_blur(images_BCHW: Tensor, keys_B: Tensor, deviation: float) -> Tensor:
    """The mean over a bell of this standard deviation, in shares of the shorter side, out to three of them."""
    sigma = _pixels(images_BCHW, deviation)
    inside_P = _ladder(3 * sigma)
    points_P2 = torch.cartesian_prod(inside_P, inside_P)
    return _averaged(images_BCHW, points_P2[None], (-points_P2.square().sum(1) / (2 * sigma**2)).exp())


def motion_blur(images_BCHW: Tensor, keys_B: Tensor, length: float) -> Tensor:
    """The mean along a line of ``length``, in shares of the shorter side, whose direction each key decides; its middle stays in place."""
    inside_P = _ladder(_pixels(images_BCHW, length) / 2)
    angle_B = math.pi * uniform(keys_B, 1)[:, 0].cpu()
    points_BP2 = inside_P[None, :, None] * torch.stack([angle_B.sin(), angle_B.cos()], dim=1)[:, None]
    return _averaged(images_BCHW, points_BP2, torch.ones(len(inside_P)))


def _pixels(images_BCHW: Tensor, share: float) -> float:
    return share * min(images_BCHW.shape[-2:])


def _ladder(reach: float) -> Tensor:
    """Offsets from ``-reach`` to ``reach`` pixels, at most a third of a pixel apart."""
    return torch.linspace(-reach, reach, 2 * max(4, math.ceil(3 * reach)) + 1)


def _averaged(images_BCHW: Tensor, points_BP2: Tensor, weights_P: Tensor) -> Tensor:
    """The weighted mean of the pictures moved by all the points (down, across, in pixels); outside they are mirrored."""
    reach = max(1, math.ceil(points_BP2.abs().max().item() - 1e-4))
    places_K = torch.arange(-reach, reach + 1)
    tents_BP2K = (1 - (points_BP2[..., None] - places_K).abs()).clamp(min=0)
    kernel_BKK = torch.einsum("bpk,bpl,p->bkl", tents_BP2K[:, :, 0], tents_BP2K[:, :, 1], weights_P / weights_P.sum())
    return _convolved(images_BCHW, kernel_BKK.to(images_BCHW.device))


def _convolved(images_BCHW: Tensor, kernel_BKK: Tensor) -> Tensor:
    reach = kernel_BKK.shape[-1] // 2
    padded = functional.pad(images_BCHW, (reach, reach, reach, reach), mode="reflect")
    size = padded.shape[-2:]
    product = torch.fft.rfft2(padded) * torch.fft.rfft2(kernel_BKK, s=size)[:, None]
    blurred: Tensor = torch.fft.irfft2(product, s=size)
    return blurred[..., 2 * reach :, 2 * reach :]  # what wraps around lies before
