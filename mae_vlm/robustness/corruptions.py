"""Common corruptions at five strengths, after ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261, section 4.1).

The families that need no other pictures, written afresh. Noise and light are in shares of the range of a pixel, whatever its bits; blurs in
shares of the picture's shorter side, because ImageNet-C's own numbers are for 224 pixels. So results of two models compare on the same
pictures, but not with numbers published for ImageNet-C. None moves what is in the picture.

Letters: B pictures, C channels, H, W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mae_vlm.robustness.blurs import defocus, gaussian_blur, motion_blur
from mae_vlm.robustness.compression import jpeg, pixelate
from mae_vlm.robustness.family import Family, chance_like, normal_like
from mae_vlm.tokens.chance import uniform

_OCTAVES = 4  # of the haze: grids of 2, 4, 8 and 16 points
_THINNEST = 0.4  # of the haze, where it is thickest 1
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def gaussian_noise(images_BCHW: Tensor, keys_B: Tensor, deviation: float) -> Tensor:
    """Normal noise of the same deviation everywhere: a sensor in poor light."""
    return images_BCHW + deviation * normal_like(images_BCHW, keys_B)


def shot_noise(images_BCHW: Tensor, keys_B: Tensor, deviation: float) -> Tensor:
    """Noise of counted light, whose variance grows with the light; ``deviation`` is that at white (the Poisson law's normal limit)."""
    return images_BCHW + deviation * images_BCHW.sqrt() * normal_like(images_BCHW, keys_B)


def impulse_noise(images_BCHW: Tensor, keys_B: Tensor, share: float) -> Tensor:
    """So large a share of all numbers is black or white: dead sensor cells, bit errors."""
    salt_BCHW = (chance_like(images_BCHW, keys_B, 1) < 0.5).to(images_BCHW.dtype)
    return torch.where(chance_like(images_BCHW, keys_B) < share, salt_BCHW, images_BCHW)


def brightness(images_BCHW: Tensor, keys_B: Tensor, more: float) -> Tensor:
    """So much brighter; what is cut off at white is lost."""
    return images_BCHW + more


def contrast(images_BCHW: Tensor, keys_B: Tensor, lost: float) -> Tensor:
    """Every number loses so large a share of its distance from its channel's mean."""
    return torch.lerp(images_BCHW, images_BCHW.mean(dim=(2, 3), keepdim=True).expand_as(images_BCHW), lost)


def saturation(images_BCHW: Tensor, keys_B: Tensor, lost: float) -> Tensor:
    """The colour loses so large a share: at 1 the picture is grey."""
    channels = images_BCHW.shape[1]
    weights = images_BCHW.new_tensor(_LUMA if channels == 3 else [1 / channels] * channels)
    grey_B1HW = (images_BCHW * weights.view(1, -1, 1, 1)).sum(dim=1, keepdim=True)
    return torch.lerp(images_BCHW, grey_B1HW.expand_as(images_BCHW), lost)


def haze(images_BCHW: Tensor, keys_B: Tensor, thickness: float) -> Tensor:
    """White in clouds of several sizes before the picture; ``thickness`` is the share of white where it is thickest."""
    height, width = images_BCHW.shape[-2:]
    clouds = []
    for octave in range(1, _OCTAVES + 1):
        side = 2**octave
        grid_B1hw = uniform(keys_B, side * side, octave).view(-1, 1, side, side)
        clouds.append(functional.interpolate(grid_B1hw, (height, width), mode="bilinear", align_corners=True) * 2.0**-octave)
    cloud_B1HW = torch.stack(clouds).sum(0) / (1 - 2.0**-_OCTAVES)
    thick_B1HW = thickness * (_THINNEST + (1 - _THINNEST) * cloud_B1HW)
    return images_BCHW + thick_B1HW * (1 - images_BCHW)


COMMON = (
    Family("gaussian_noise", "noise", "standard deviation, of the range", (0.04, 0.08, 0.12, 0.18, 0.26), gaussian_noise),
    Family("shot_noise", "noise", "standard deviation at white, of the range", (0.06, 0.10, 0.15, 0.22, 0.32), shot_noise),
    Family("impulse_noise", "noise", "share of numbers that are black or white", (0.02, 0.04, 0.08, 0.14, 0.22), impulse_noise),
    Family("defocus", "blur", "radius, of the shorter side", (0.012, 0.018, 0.026, 0.035, 0.045), defocus),
    Family("gaussian_blur", "blur", "standard deviation, of the shorter side", (0.006, 0.010, 0.015, 0.021, 0.028), gaussian_blur),
    Family("motion_blur", "blur", "length, of the shorter side", (0.04, 0.06, 0.09, 0.13, 0.18), motion_blur),
    Family("brightness", "light", "added, of the range", (0.1, 0.2, 0.3, 0.4, 0.5), brightness),
    Family("contrast", "light", "share lost", (0.5, 0.65, 0.78, 0.88, 0.94), contrast),
    Family("saturation", "light", "share lost", (0.2, 0.4, 0.6, 0.8, 1.0), saturation, coloured=True),
    Family("haze", "light", "share of white where it is thickest", (0.3, 0.45, 0.6, 0.7, 0.8), haze),
    Family("pixelate", "compression", "pixels across that become one", (1.5, 2.0, 2.7, 3.5, 4.5), pixelate),
    Family("jpeg", "compression", "quality", (60, 40, 25, 15, 7), jpeg),
)
