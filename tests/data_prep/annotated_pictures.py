"""A source with everything that a sample can hold, for what must be carried along."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from mae_vlm.data.sources.base import Source
from mae_vlm.types import Question, Sample


class Annotated(Source):
    """Four pictures of 60 x 40 (width x height) with two objects each: the left half, and a column one pixel wide."""

    def __init__(self) -> None:
        self.classes, self.object_classes = ["a", "b"], ["half", "column"]

    def __len__(self) -> int:
        return 4

    def name(self, index: int) -> str:
        return f"folder.x/{index}.png"

    def __getitem__(self, index: int) -> Sample:
        masks_NHW = torch.zeros(2, 40, 60, dtype=torch.bool)
        masks_NHW[0, :, :30], masks_NHW[1, :, 50] = True, True
        semantic_HW = torch.full((40, 60), 255, dtype=torch.uint8)
        semantic_HW[:, :30] = 0
        return Sample(
            self.name(index),
            image=self.file(index),
            label=index % 2,
            captions=("naïve caption", "another"),
            questions=(Question("how many?", ("2", "two")),),
            boxes=torch.tensor([[0.0, 0.0, 30.0, 40.0], [50.0, 0.0, 51.0, 40.0]]),
            classes=torch.tensor([0, 1]),
            masks=masks_NHW,
            crowds=torch.tensor([False, True]),
            box_captions=("the left", "a line"),
            semantic=semantic_HW,
        )

    def file(self, index: int) -> bytes:
        pixels = np.random.default_rng(index).integers(0, 255, (40, 60, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()
