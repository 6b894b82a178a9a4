"""The towers that objectives and heads share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import nn

from mae_vlm.data.targets import BOXES
from mae_vlm.encoders.image import ImageTower
from mae_vlm.encoders.joint import Joint
from mae_vlm.encoders.text.base import TextTower

if TYPE_CHECKING:
    from mae_vlm.encoders.fusion.base import Fusion
    from mae_vlm.encoders.regions import Regions


class Towers(nn.Module):
    """The encoders that objectives and heads share. Parts read sizes from it when built and keep no reference.

    Args:
        image: of pictures.
        text: of words, where any part looks at them.
        fusion: builds what looks at both together, from the other two.
        regions: builds what shows the fusion tower parts of the picture beside its patches.

    Raises:
        ValueError: a fusion without a text tower, or regions without a fusion.
    """

    def __init__(
        self,
        image: ImageTower,
        text: TextTower | None = None,
        fusion: Callable[[Towers], Fusion] | None = None,
        regions: Callable[[Towers], Regions] | None = None,
    ) -> None:
        super().__init__()
        self.image = image
        self.text = text
        self.joint: Joint | None = None
        self.fusion: Fusion | None = None
        self.regions: Regions | None = None if regions is None else regions(self)
        if fusion is not None:
            self.fusion = fusion(self)
        if self.regions is not None:
            self.told_fusion().regions = self.regions.most

    @property
    def wants(self) -> frozenset[str]:
        """What ``Batch.targets`` must hold: boxes, where regions take those of the data."""
        return frozenset({BOXES} if self.regions is not None and self.regions.detector is None else ())

    def join(self, width: int, view: str, pool: str, image_queries: int = 0) -> None:
        """Build the space that pictures and texts share, for a part that trains it or looks things up in it.

        Raises:
            ValueError: no text tower, or another part wants another space.
        """
        if self.joint is None:
            self.joint = Joint(self.image.width, self.told_text().width, width, view, pool, image_queries)
        wanted, joint = (width, view, pool, image_queries), self.joint
        if wanted != (own := (joint.width, joint.view, joint.pool, joint.image_queries)):
            raise ValueError(
                f"width, view, pool and image_queries {wanted} wanted, another part has {own}; they share one space: set them alike"
            )

    def told_text(self) -> TextTower:
        """The text tower.

        Raises:
            ValueError: there is none.
        """
        if self.text is None:
            raise ValueError(
                "this needs a text tower; set model.text to mae_vlm.encoders.text.transformer.Transformer (weights of a run without words "
                "bring none: leave out --model.text null)"
            )
        return self.text

    def told_fusion(self) -> Fusion:
        """The fusion tower.

        Raises:
            ValueError: there is none.
        """
        if self.fusion is None:
            raise ValueError("this needs a fusion tower; set model.fusion to mae_vlm.encoders.fusion.cross.CrossAttention")
        return self.fusion
