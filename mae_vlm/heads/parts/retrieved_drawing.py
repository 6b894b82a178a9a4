"""Pictures above the caption that is found for them.

Letters: B pictures, R captions, E numbers of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mae_vlm.heads.parts.word_drawing import word_sheet
from mae_vlm.types import Batch


def retrieved_sheet(batch: Batch, captions: Sequence[Sequence[str]], image_BE: Tensor, text_RE: Tensor) -> Tensor | None:
    """Under each picture the nearest of all captions, whether it is right, and its own where that is another; None without captions.

    ``captions`` are those of each picture, ``text_RE`` their embeddings one below the other. Float ``[3, H, W]`` in [0, 1].
    """
    every = [text for some in captions for text in some]
    if not every:
        return None
    lines = []
    for place, own in zip((image_BE @ text_RE.T).argmax(1).tolist(), captions, strict=True):
        right = every[place] in own
        lines.append([f"right: {every[place]}"] if right else [f"wrong: {every[place]}", *(f"own: {text}" for text in own[:1])])
    return word_sheet(batch, lines)
