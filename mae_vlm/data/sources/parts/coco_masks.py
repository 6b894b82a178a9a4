"""COCO's polygons and run lengths, judged when the file is read and drawn when somebody decodes them.

Drawing is faster-coco-eval's C code, COCO's own algorithm: pixels are those that every COCO tool gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae_vlm.data.sources.parts.json_stream import value_at
from mae_vlm.data.sources.parts.mask_pixels import shown_size

_FAR = 100_000  # pixels: a polygon that goes further is no polygon, and would fill the memory when drawn


@dataclass(frozen=True)
class Segmentations:
    """``Deferred`` masks of one picture, whose annotations stand in ``file`` at the bytes ``spots_N2`` [start, end).

    ``size`` is the picture's (height, width) as the file says, zeros where it does not.
    """

    id: str
    image: bytes | Path | Tensor
    size: tuple[int, int]
    file: Path
    spots_N2: NDArray[np.int64]

    def decode(self, objects: slice = slice(None)) -> Tensor:
        """Bool ``[objects, H, W]``; ValueError where one is damaged or of another size than the picture as it is shown."""
        height, width = shown_size(self.image, self.id)
        if all(self.size) and self.size != (height, width):
            raise ValueError(f"{self.id}: masks are {self.size[1]} x {self.size[0]}, picture {width} x {height}; correct {self.file}")
        spots = [(int(start), int(end)) for start, end in self.spots_N2[objects]]
        masks = np.empty((len(spots), height, width), np.bool_)
        for mask_HW, annotation in zip(masks, value_at(self.file, spots), strict=True):
            try:
                mask_HW[:] = draw(annotation["segmentation"], (height, width))
            except (ValueError, RuntimeError, TypeError, KeyError) as error:
                raise ValueError(
                    f"{self.id}: the mask of annotation {annotation.get('id')} is damaged ({error}); correct {self.file}"
                ) from None
        return torch.from_numpy(masks)


def draw(segmentation: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
    """uint8 ``[H, W]``, 0 or 1, of polygons or run lengths in a picture of ``size`` (height, width).

    Raises:
        ValueError, RuntimeError: the run lengths are damaged, do not fill the picture or are of another size.
    """
    import faster_coco_eval.mask_api_new_cpp as coco  # 0.2 s that only masks need

    drawn: NDArray[np.uint8] = coco.decode([_run_lengths(coco, segmentation, size)])[..., 0]
    return drawn


def box_of(segmentation: Any) -> list[float]:
    """Left, top, width and height of polygons, at least one of them good, or of run lengths; not finite where these are damaged."""
    if isinstance(segmentation, list):
        points_N2 = np.concatenate([np.array(polygon).reshape(-1, 2) for polygon in good_polygons(segmentation)])
        return [*points_N2.min(0).tolist(), *np.ptp(points_N2, 0).tolist()]
    import faster_coco_eval.mask_api_new_cpp as coco

    try:
        box: list[float] = coco.toBbox([_run_lengths(coco, segmentation, tuple(segmentation["size"]))])[0].tolist()
    except (ValueError, RuntimeError, TypeError):
        return [np.nan] * 4
    return box


def _run_lengths(coco: Any, segmentation: Any, size: tuple[int, int]) -> dict[str, Any]:
    height, width = size
    if isinstance(segmentation, list):
        return dict(coco.merge(coco.frPoly(good_polygons(segmentation), height, width), 0))
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(f"it is {segmentation['size'][1]} x {segmentation['size'][0]}, the picture {width} x {height}")
    if isinstance(segmentation["counts"], list):
        return dict(coco.frUncompressedRLE([segmentation])[0])
    return dict(segmentation)


def good_polygons(segmentation: list[Any]) -> list[list[float]]:
    """The polygons of at least three points that stay near the picture."""
    return [polygon for polygon in segmentation if _is_polygon(polygon)]


def _is_polygon(polygon: Any) -> bool:
    try:
        return len(polygon) >= 6 and len(polygon) % 2 == 0 and min(polygon) > -_FAR and max(polygon) < _FAR and sum(polygon) < np.inf
    except TypeError:
        return False


def judge(segmentation: Any) -> tuple[str, str] | None:
    """What is wrong with a segmentation, as far as it is seen without drawing it: the kind of problem, and the facts."""
    if isinstance(segmentation, list):
        bad = len(segmentation) - len(good_polygons(segmentation))
        return ("invalid polygon", f"{bad} of {len(segmentation)} are not three or more points near the picture") if bad else None
    try:
        (height, width), counts = segmentation["size"], segmentation["counts"]
        if not all(isinstance(side, int) and 0 < side < 1 << 31 for side in (height, width)):
            return "damaged mask", f"its size {str(segmentation['size'])[:60]} is not two whole numbers"
        if isinstance(counts, list) and not all(isinstance(count, int) for count in counts):
            return "damaged mask", "its run lengths are not all whole numbers"
        if isinstance(counts, list) and (min(counts, default=0) < 0 or sum(counts) != height * width):
            return "damaged mask", f"run lengths add up to {sum(counts)}, not to {height * width} pixels"
        return None if isinstance(counts, list | str) else ("damaged mask", "its counts are neither a list nor a text")
    except (TypeError, KeyError, ValueError):
        return "damaged mask", "neither polygons nor run lengths with size and counts"
