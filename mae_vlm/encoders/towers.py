"""The towers, and one batch seen through them.

Letters: B pictures, C channels, H, W pixels, N patches, P numbers in a patch.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from mae_vlm.encoders.passes import Held, held, tapped
from mae_vlm.encoders.vit import Vit
from mae_vlm.tokens.masking import Mask
from mae_vlm.types import Batch, Encoded, Masking


class Towers(nn.Module):
    """The encoders that objectives and heads share. Parts read sizes from it when built and keep no reference."""

    def __init__(self, image: Vit) -> None:
        super().__init__()
        self.image = image


class Features:
    """One batch seen through the towers, lazily: each pass runs once, on first use; what nobody asks for never runs.

    Args:
        towers: the encoders.
        batch: pictures as uint8, with the keys that masks are drawn from.
        mask: how patches are hidden; None when no objective looks at a masked view.
    """

    def __init__(self, towers: Towers, batch: Batch, mask: Mask | None = None) -> None:
        self._towers = towers
        self.batch = batch
        self._mask = mask
        self._maps: dict[Any, list[Tensor]] = {}
        self._held: dict[int, Held] = {}

    @cached_property
    def images_BCHW(self) -> Tensor:
        """Normalised pictures."""
        return self._towers.image.normalise(self.batch.images_BCHW)

    @cached_property
    def patches_BNP(self) -> Tensor:
        """Normalised pictures as patches."""
        return self._towers.image.patchify(self.images_BCHW)

    @cached_property
    def masking(self) -> Masking:
        """Visible and hidden patches of the masked view."""
        assert self._mask is not None, "an objective asked for the masked view, but the learner has no masking"
        return self._mask(self.batch.keys_B, self._towers.image.space)

    @cached_property
    def masked(self) -> Encoded:
        """The encoder's view of the visible patches."""
        return self._towers.image.visible(self.patches_BNP, self.masking.keep_BK)

    def maps(self, taps: tuple[int, ...], windows: int = 1, whole: tuple[int, ...] = ()) -> list[Tensor]:
        """Patch tokens after the blocks ``taps`` as maps ``[B, D, rows, columns]``, see :func:`mae_vlm.encoders.passes.tapped`."""
        key = (taps, windows, whole)
        if key not in self._maps:
            self._maps[key] = tapped(self._towers.image, self.images_BCHW, *key)
        return self._maps[key]

    def window(self, top: int, left: int) -> Features:
        """Of pictures larger than the encoder's, what it sees of that part of its size whose corner is at these pixels."""
        space = self._towers.image.space
        part = (..., slice(top, top + space.height), slice(left, left + space.width))
        return Features(self._towers, replace(self.batch, images_BCHW=self.batch.images_BCHW[part]))

    def held(self, last: int) -> Held:
        """All tokens before the ``last`` blocks, and these blocks, see :func:`mae_vlm.encoders.passes.held`."""
        if last not in self._held:
            self._held[last] = held(self._towers.image, self.images_BCHW, last)
        return self._held[last]

    @cached_property
    def full(self) -> Encoded:
        """The encoder's view of all patches."""
        return self._towers.image.full(self.images_BCHW)
