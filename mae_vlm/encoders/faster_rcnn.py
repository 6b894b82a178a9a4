"""Boxes for regions from torchvision's Faster R-CNN, its weights from a local file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models import detection

from mae_vlm.encoders.regions import Detector
from mae_vlm.types import Batch

_LAST = "roi_heads.box_predictor.cls_score.weight"


class FasterRcnn(Detector):
    """What torchvision's Faster R-CNN finds in each batch (Ren et al. 2015, arXiv 1506.01497). The file must stay where it is: checkpoints
    hold its path, not its weights.

    Args:
        weights: a file that ``torch.save`` made of its ``state_dict``, as those that torchvision offers; nothing is downloaded.
        architecture: its name in ``torchvision.models.detection``.
        score: boxes of a lower score are left out.
        side: pixels to which it enlarges the shorter side of a picture; torchvision's 800 is slow where pictures are small.

    Raises:
        ValueError: no such file or architecture, weights that don't fit it, or an option out of its range.
    """

    def __init__(self, weights: str, architecture: str = "fasterrcnn_resnet50_fpn", score: float = 0.2, side: int = 800) -> None:
        known = sorted(name for name in vars(detection) if name.startswith("fasterrcnn_"))
        if architecture not in known or not 0 <= score < 1 or side < 1:
            raise ValueError(
                f"architecture {architecture!r}, score {score}, side {side} given: allowed are {', '.join(known)}; from 0 to 1; above 0"
            )
        state = _read(weights)
        build = getattr(detection, architecture)
        options: dict[str, Any] = {"box_score_thresh": score, "min_size": side, "max_size": 4 * side}
        self.model = build(weights=None, weights_backbone=None, num_classes=len(state[_LAST]), **options)
        try:
            self.model.load_state_dict(state)
        except RuntimeError as problem:
            why = " ".join(str(problem).split())[:160]
            raise ValueError(f"the weights {weights} don't fit torchvision's {architecture}: {why}") from None
        self.model.requires_grad_(False).eval()

    @torch.no_grad()
    def boxes(self, batch: Batch) -> list[Tensor]:
        images_BCHW = batch.images_BCHW
        scale = {torch.uint8: 255.0, torch.uint16: 65535.0}.get(images_BCHW.dtype, 1.0)
        if images_BCHW.shape[1] not in (1, 3):
            raise ValueError(f"torchvision's Faster R-CNN looks at RGB or grey, the pictures have {images_BCHW.shape[1]} channels")
        self.model.to(images_BCHW.device)
        with torch.autocast(images_BCHW.device.type, enabled=False):
            found = self.model(list((images_BCHW.float() / scale).expand(-1, 3, -1, -1)))
        return [one["boxes"] for one in found]


def _read(weights: str) -> dict[str, Tensor]:
    if not Path(weights).is_file():
        raise ValueError(f"weights {weights} of torchvision's Faster R-CNN: no such file; save its state_dict there, nothing is downloaded")
    state = torch.load(weights, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or _LAST not in state:
        raise ValueError(f"weights {weights} hold no Faster R-CNN of torchvision's: no {_LAST} in it")
    return state
