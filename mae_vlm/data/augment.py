"""RandAugment and random erasing through timm, for classification: what they draw is a pure function of the picture's key.

Letters: C channels, H, W pixels.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from mae_vlm.tokens.chance import key_of

_RECIPE = re.compile(r"rand(-(m\d+(\.\d+)?|n\d+|p\d+(\.\d+)?|mstd\d+(\.\d+)?|mmax\d+|inc[01]))*")
_WORD = 0xFFFF_FFFF
_AUGMENT, _ERASE = 0xA06, 0xE4A  # streams of the key


class Strengthen:
    """RandAugment (Cubuk et al. 2020) by one of timm's recipes, then random erasing (Zhong et al. 2020), of a crop of 3 channels of 8 bits.

    As in timm's training transforms: what is uncovered gets the mean colour, resampling is bicubic, and erased pixels are normal noise
    about the mean, here cut off at black and white. Pixels alone move: boxes, masks and words about left, right or colour would be wrong.

    Args:
        recipe: as ``rand-m9-mstd0.5-inc1``; None for none.
        erase: share of the pictures in which a rectangle of 2 to 33 % of the area is erased.
        size: height and width of the crops, by which translations go.
        mean, std: of pixels in [0, 1]; None takes ImageNet's.
    """

    def __init__(
        self,
        recipe: str | None,
        erase: float,
        size: tuple[int, int],
        mean: list[float] | None = None,
        std: list[float] | None = None,
    ) -> None:
        from PIL import Image
        from timm.data.auto_augment import rand_augment_transform
        from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
        from timm.data.random_erasing import RandomErasing

        mean, std = mean or list(IMAGENET_DEFAULT_MEAN), std or list(IMAGENET_DEFAULT_STD)
        colour = tuple(min(255, round(255 * value)) for value in mean)
        options = {"translate_const": int(0.45 * min(size)), "img_mean": colour, "interpolation": Image.Resampling.BICUBIC}
        self._augment = rand_augment_transform(recipe, options) if recipe else None
        self._erase = RandomErasing(erase, mode="pixel", device="cpu") if erase else None
        self._mean_C11, self._std_C11 = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))

    def __call__(self, image_CHW: Tensor, key: int) -> Tensor:
        """Another uint8 ``[C, H, W]``, the same for the same key."""
        if self._augment is not None:
            image_CHW = self._augmented(image_CHW, key_of(key, _AUGMENT))
        return image_CHW if self._erase is None else self._erased(image_CHW, key_of(key, _ERASE))

    def _augmented(self, image_CHW: Tensor, key: int) -> Tensor:
        from PIL import Image

        assert self._augment is not None
        image = Image.fromarray(image_CHW.permute(1, 2, 0).contiguous().numpy())
        with drawing_from(key):
            changed = self._augment(image)
        return torch.from_numpy(np.array(changed)).permute(2, 0, 1)

    def _erased(self, image_CHW: Tensor, key: int) -> Tensor:
        """Timm erases normalised pictures: here one that knows no pixel, so that all that is not erased stays as it is to the bit."""
        assert self._erase is not None
        with drawing_from(key):
            noise_CHW = self._erase(torch.full(image_CHW.shape, float("nan")))
        there_CHW = noise_CHW.isnan()
        if bool(there_CHW.all()):
            return image_CHW
        pixels_CHW = ((noise_CHW * self._std_C11 + self._mean_C11) * 255).nan_to_num(0.0).round_().clamp_(0, 255).to(torch.uint8)
        return torch.where(there_CHW, image_CHW, pixels_CHW)


@contextmanager
def drawing_from(key: int) -> Iterator[None]:
    """Within it Python, NumPy and torch draw what belongs to the key; afterwards they go on as if nothing had been drawn."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(key)
    np.random.seed(key_of(key, 1) & _WORD)
    torch.manual_seed(key_of(key, 2) & _WORD)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def check_augment(recipe: str | None, erase: float) -> None:
    """What is wrong with the options whatever the pictures are.

    Raises:
        ValueError: a recipe that timm does not know, or a share that is none.
    """
    if recipe is not None and not _RECIPE.fullmatch(recipe):
        raise ValueError(f"data.rand_augment {recipe!r} is no recipe of timm's; write it as rand-m9-mstd0.5-inc1, or leave it out")
    if not 0 <= erase <= 1:
        raise ValueError(f"data.erase {erase} is a share of the pictures; use a number from 0 to 1, as 0.25")


def check_pixels(recipe: str | None, erase: float, channels: int, bits: int, wants: frozenset[str]) -> None:
    """That the pictures are such as timm's transforms take, and that nothing in them has to move along.

    Raises:
        ValueError: they are not.
    """
    if recipe is None and not erase:
        return
    given = " and ".join([*([f"data.rand_augment {recipe}"] if recipe else []), *([f"data.erase {erase}"] if erase else [])])
    if (channels, bits) != (3, 8):
        raise ValueError(f"{given}: timm's transforms take 3 channels of 8 bits, these pictures have {channels} of {bits}; leave them out")
    if wants:
        raise ValueError(f"{given} would move pixels away from the {' and '.join(sorted(wants))} that the model learns; leave them out")
