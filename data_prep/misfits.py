"""Boxes and masks that do not fit the picture as it is shown: seen only once both are read."""

from __future__ import annotations

import torch
from torch import Tensor

from mae_vlm.types import Deferred, Sample

_OUT_BY = 1.0  # pixels that a box may reach out: rounding, and tools that count from 1


def misfits(sample: Sample, height: int, width: int) -> list[tuple[str, str, str, str]]:
    """(kind, annotation file where it is known, sample, facts) of what is wrong in a picture shown in ``height`` x ``width`` pixels."""
    found = [] if sample.boxes is None else _boxes(sample.boxes, height, width)
    for masks in (sample.masks, sample.semantic):
        wrong = None if masks is None else _mask(masks, height, width)
        found += [wrong] if wrong else []
    file = str(getattr(sample.masks, "file", "") or getattr(sample.semantic, "file", ""))
    return [(kind, file, sample.id, text) for kind, text in found]


def _boxes(boxes_N4: Tensor, height: int, width: int) -> list[tuple[str, str]]:
    """One line for each box wholly outside, and one for all that reach outside: annotations of another size are not cut at the border."""
    left_N, top_N, right_N, bottom_N = boxes_N4.float().unbind(-1)
    outside_N = (right_N <= 0) | (bottom_N <= 0) | (left_N >= width) | (top_N >= height)
    far_N = torch.stack([-left_N, -top_N, right_N - width, bottom_N - height]).amax(0)
    reaching_N = (far_N > _OUT_BY) & ~outside_N
    shown = f"the picture is {width} x {height}"
    found = [("box outside the picture", f"{_told(box_4)}; {shown}") for box_4 in boxes_N4[outside_N]]
    if reaching_N.any():
        text = f"{int(reaching_N.sum())} of {len(boxes_N4)} boxes, the first: {_told(boxes_N4[reaching_N][0])}; {shown}"
        found.append(("boxes reach outside the picture", f"{text}; is it annotated for another size?"))
    return found


def _told(box_4: Tensor) -> str:
    return ", ".join(f"{side} {value:.6g}" for side, value in zip(("left", "top", "right", "bottom"), box_4.tolist(), strict=True))


def _mask(masks: Tensor | Deferred, height: int, width: int) -> tuple[str, str] | None:
    try:
        pixels = masks if isinstance(masks, Tensor) else masks.decode()
    except (ValueError, OSError) as error:
        return "masks that cannot be decoded", str(error)
    if pixels.numel() and pixels.shape[-2:] != (height, width):
        return "mask of another size", f"mask {pixels.shape[-1]} x {pixels.shape[-2]}, picture {width} x {height}"
    return None
