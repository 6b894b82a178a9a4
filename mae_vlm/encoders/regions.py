"""Regions of pictures as further tokens for a fusion tower.

Letters: B pictures, N patches, T prefix tokens and patches, K regions, D width, O objects of a picture.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from mae_vlm.encoders.towers import Towers
from mae_vlm.types import Batch

_POINTS = 2  # at which each bin of a region is read, down and across


class Boxed(NamedTuple):
    """As many boxes for each picture ``[B, K, 4]`` (left, top, right, bottom, in pixels of the prepared picture), zeros where ``real_BK``
    is False.
    """

    boxes_BK4: Tensor
    real_BK: Tensor


class Detector(ABC):
    """What finds boxes in pictures while others train; it is frozen, and no part of their weights."""

    @abstractmethod
    def boxes(self, batch: Batch) -> list[Tensor]:
        """Float32 ``[O, 4]`` for each picture of the batch, the surest first, in pixels of the prepared pictures, on any device."""


class _Aside:
    """Keeps a detector out of its owner's weights, checkpoints and copies."""

    def __init__(self, detector: Detector | None) -> None:
        self.detector = detector

    def __deepcopy__(self, memory: dict[int, Any]) -> _Aside:
        return self


class Regions(nn.Module):
    """Features of boxes, pooled from the image encoder's own patches, as tokens behind a picture's (regions as in UNITER and VinVL).

    RoIAlign (He et al. 2017, arXiv 1703.06870, section 3) of what the fusion tower sees of the picture; feature and place (left, top,
    right, bottom, width and height, as shares of the picture's) each go through a linear layer, and their sum through a norm (UNITER,
    arXiv 1909.11740, section 3.1). Each picture has ``most`` tokens: one of a region that is not there is all zeros, and no fusion tower
    looks at it.

    With boxes of the data, pictures are brought to one size as for a detector; ``data.framing: crop`` crops as ever, and boxes move along.

    Args:
        towers: whose pictures they are.
        most: regions of a picture (K); of more the detector's surest are taken, of the data's own boxes the largest.
        bins: a region is pooled in so many parts down and across, whose mean is its feature.
        detector: what finds the boxes; None takes those that the data has.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(self, towers: Towers, most: int = 36, bins: int = 3, detector: Detector | None = None) -> None:
        super().__init__()
        if min(most, bins) < 1:
            raise ValueError(f"most {most}, bins {bins} given, allowed is 1 or more of both")
        self.most, self.bins, self.space, self.prefix = most, bins, towers.image.space, towers.image.prefix
        width = towers.image.width
        self.feature, self.place, self.norm = nn.Linear(width, width), nn.Linear(6, width), nn.LayerNorm(width)
        self._detector = _Aside(detector)

    @property
    def detector(self) -> Detector | None:
        """What finds the boxes; None: the data has them."""
        return self._detector.detector

    @torch.no_grad()
    def boxed(self, batch: Batch) -> Boxed:
        """The boxes of a batch.

        Raises:
            ValueError: they should come with the data, and did not.
        """
        found = self._given(batch) if self.detector is None else self.detector.boxes(batch)
        boxes_BK4 = torch.zeros(len(batch), self.most, 4)
        real_BK = torch.zeros(len(batch), self.most, dtype=torch.bool)
        for row, boxes_O4 in enumerate(found):
            count = min(self.most, len(boxes_O4))
            boxes_BK4[row, :count], real_BK[row, :count] = boxes_O4[:count].cpu(), True
        device = batch.keys_B.device
        return Boxed(boxes_BK4.to(device), real_BK.to(device))

    def forward(self, tokens_BTD: Tensor, boxes_BK4: Tensor, real_BK: Tensor) -> Tensor:
        """The regions' tokens ``[B, K, D]`` from the picture's; zeros where a region is not real."""
        feature_BKD = self.feature(self._pooled(tokens_BTD[:, self.prefix :], boxes_BK4).to(self.feature.weight.dtype))
        whole_4 = boxes_BK4.new_tensor([self.space.width, self.space.height] * 2)
        share_BK4 = boxes_BK4 / whole_4
        place_BK6 = torch.cat([share_BK4, share_BK4[..., 2:] - share_BK4[..., :2]], dim=-1)
        region_BKD: Tensor = self.norm(feature_BKD + self.place(place_BK6.to(self.place.weight.dtype)))
        return region_BKD.masked_fill(~real_BK[..., None], 0.0).to(tokens_BTD.dtype)

    def _pooled(self, patches_BND: Tensor, boxes_BK4: Tensor) -> Tensor:
        """The mean of each box ``[B, K, D]``, in float32 or better."""
        from torchvision.ops import roi_align

        map_BDhw = rearrange(patches_BND, "b (h w) d -> b d h w", h=self.space.rows)
        map_BDhw = map_BDhw.to(torch.promote_types(map_BDhw.dtype, torch.float32))
        with torch.autocast(map_BDhw.device.type, enabled=False):
            boxes = list(boxes_BK4.to(map_BDhw.dtype))
            bins = roi_align(map_BDhw, boxes, self.bins, 1 / self.space.patch, _POINTS, aligned=True)
        found_BKD: Tensor = bins.mean((2, 3)).unflatten(0, boxes_BK4.shape[:2])
        return found_BKD

    def _given(self, batch: Batch) -> list[Tensor]:
        """The data's own boxes, the largest first, crowds left out."""
        if len(batch.targets) != len(batch):
            raise ValueError(
                "model.regions takes the data's own boxes, and it delivers none; take a collection that has them, or set detector"
            )
        found = []
        for target in batch.targets:
            assert target.boxes is not None, "boxes were asked for and are not there"
            boxes_O4 = target.boxes if target.crowds is None else target.boxes[~target.crowds]
            sides_O2 = boxes_O4[:, 2:] - boxes_O4[:, :2]
            found.append(boxes_O4[sides_O2.prod(1).argsort(descending=True, stable=True)])
        return found
