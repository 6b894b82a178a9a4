"""What is known about one picture as JSON, both ways: the member ``<stem>.json`` of the tar shards that we write.

    {"mae_vlm": 1,                                      marks the layout
     "label": 3,
     "captions": ["a cat on a mat"],
     "questions": [{"question": "what is it?", "answers": ["cat", "cat"]}],       and "choices", "rationale" where it has them
     "boxes": [[left, top, right, bottom], ...],        pixels as shown, right and bottom exclusive
     "classes": [17, ...],                              numbers in ``object_classes``
     "crowds": [false, ...],
     "box_captions": ["a phrase", ...],
     "masks": {"size": [H, W], "counts": ["...", ...]}} COCO's compressed run lengths, down the columns, one for each object

A key that is not there is a field that the sample does not have. The semantic mask is the member ``<stem>.semantic.png``
(``semantic_png``). Beside the shards lies ``dataset.json``:

    {"mae_vlm": 1, "classes": [...], "object_classes": [...], "shards": {name: {"samples": n, "bytes": n, "sha256": "..."}}}

JSON of others is read too, for its captions only (``foreign_captions``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae_vlm.data.sources.parts.mask_pixels import shown_size
from mae_vlm.types import Question, Sample

MARK = "mae_vlm"
VERSION = 1
_MOST_PIXELS = 1 << 31  # of all masks of one picture: a list of run lengths can claim any size in a few bytes


def to_json(sample: Sample) -> dict[str, Any]:
    """Everything but the picture and its semantic mask; ``from_json`` gives the same back. Deferred masks are decoded for it.

    Raises:
        ValueError: the sample is a pair of pictures, for which there is no member.
    """
    if sample.partner is not None:
        raise ValueError(f"{sample.id} is a pair of pictures, which shards have no place for; train on its files as they are")
    found: dict[str, Any] = {MARK: VERSION}
    if sample.label is not None:
        found["label"] = sample.label
    if sample.captions:
        found["captions"] = list(sample.captions)
    if sample.questions:
        found["questions"] = [_asked(one) for one in sample.questions]
    if sample.boxes is not None:  # the shortest decimals that give the same float32
        found["boxes"] = [[float(str(side)) for side in box] for box in sample.boxes.to(torch.float32).numpy()]
    for name in ("classes", "crowds"):
        values = getattr(sample, name)
        if values is not None:
            found[name] = values.tolist()
    if sample.box_captions:
        found["box_captions"] = list(sample.box_captions)
    if sample.masks is not None:
        found["masks"] = _encode(sample.masks if isinstance(sample.masks, Tensor) else sample.masks.decode())
    return found


def from_json(found: dict[str, Any], name: str, image: bytes | Path | Tensor | None = None) -> dict[str, Any]:
    """Fields of ``Sample`` from what ``to_json`` wrote, its masks as a ``Deferred``.

    Args:
        found: the object, with our mark.
        name: of the sample, for messages.
        image: the picture; masks must be of its size as it is shown, which is looked at when they are decoded.

    Raises:
        ValueError: a newer version, a field that is not what the layout says, or lists of objects of different lengths.
    """
    if found.get(MARK) != VERSION:
        raise ValueError(f"{name}: its json is of version {found.get(MARK)!r}, this program reads {VERSION}; update mae_vlm")
    try:
        fields = _fields(found, name, image)
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ValueError(f"{name}: its json is damaged ({_line(error)}); write the shard again") from None
    objects = {len(fields[key]) for key in ("boxes", "classes", "crowds", "box_captions", "masks") if key in fields}
    if len(objects) > 1:
        raise ValueError(f"{name}: its json lists {' and '.join(map(str, sorted(objects)))} objects for one picture; write the shard again")
    return fields


def foreign_captions(found: Any) -> tuple[str, ...]:
    """Captions in the JSON of others: a list of sentences, or such a list or one sentence under captions, caption or text."""
    if isinstance(found, dict):
        found = next((found[key] for key in ("captions", "caption", "text") if found.get(key)), None)
    words = [found] if isinstance(found, str) else found if isinstance(found, list) else []
    return tuple(one.strip() for one in words if isinstance(one, str) and one.strip())


class RunLengths:
    """Masks of one picture as COCO's compressed run lengths; ``decode`` gives bool ``[objects, H, W]``."""

    def __init__(self, size: tuple[int, int], counts: list[str], name: str, image: bytes | Path | Tensor | None = None) -> None:
        self.size, self.counts, self.name, self._image = size, counts, name, image

    def __len__(self) -> int:
        return len(self.counts)

    def decode(self, objects: slice = slice(None)) -> Tensor:
        """Bool ``[objects, H, W]``.

        Raises:
            ValueError: run lengths do not fill the size, or the size is not the picture's.
        """
        (height, width), wanted = self.size, self.counts[objects]
        shown = self.size if self._image is None else shown_size(self._image, self.name)
        if shown != self.size:
            raise ValueError(f"{self.name}: masks of {width} x {height} pixels for a picture of {shown[1]} x {shown[0]}")
        if min(height, width) < 1 or len(wanted) * height * width > _MOST_PIXELS:
            raise ValueError(f"{self.name}: {len(wanted)} masks of {width} x {height} pixels are none, or too many to be decoded")
        masks_NHW = np.empty((len(wanted), height, width), dtype=np.bool_)
        for number, counts in enumerate(wanted):
            runs = _runs(counts)
            if (runs < 0).any() or runs.sum() != height * width:
                raise ValueError(f"{self.name}: run lengths of mask {number} do not fill {width} x {height} pixels")
            masks_NHW[number] = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T
        return torch.from_numpy(masks_NHW)


def _asked(one: Question) -> dict[str, Any]:
    more = ({"choices": list(one.choices)} if one.choices else {}) | ({"rationale": True} if one.rationale else {})
    return {"question": one.text, "answers": list(one.answers)} | more


def _question(one: dict[str, Any]) -> Question:
    answers, choices = (tuple(map(str, one.get(name, ()))) for name in ("answers", "choices"))
    return Question(str(one["question"]), answers, choices, bool(one.get("rationale")))


def _fields(found: dict[str, Any], name: str, image: bytes | Path | Tensor | None) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if "label" in found:
        fields["label"] = int(found["label"])
    for key in ("captions", "box_captions"):
        if key in found:
            fields[key] = tuple(str(one) for one in found[key])
    if "questions" in found:
        fields["questions"] = tuple(map(_question, found["questions"]))
    if "boxes" in found:
        fields["boxes"] = torch.tensor(found["boxes"], dtype=torch.float32).reshape(-1, 4)
    for key, dtype in (("classes", torch.int64), ("crowds", torch.bool)):
        if key in found:
            fields[key] = torch.tensor(found[key], dtype=dtype).reshape(-1)
    if "masks" in found:
        height, width = map(int, found["masks"]["size"])
        fields["masks"] = RunLengths((height, width), list(map(str, found["masks"]["counts"])), name, image)
    return fields


def _encode(masks_NHW: Tensor) -> dict[str, Any]:
    import faster_coco_eval.mask_api_new_cpp as coco  # 0.2 s that only writers need

    height, width = masks_NHW.shape[1:]
    pixels_HWN = np.asfortranarray(masks_NHW.permute(1, 2, 0).to(torch.uint8).numpy())
    counts = [one["counts"].decode("ascii") for one in coco.encode(pixels_HWN)] if len(masks_NHW) else []
    return {"size": [height, width], "counts": counts}


def _runs(counts: str) -> NDArray[np.int64]:
    """Run lengths from their letters, or [-1] where they are none.

    A letter is 48 plus 5 bits of a number, the lowest first, and bit 5 says that more follow. From the fourth number on it is the
    difference to the run two before (``rleFrString`` of COCO's maskApi.c).
    """
    letters = np.frombuffer(counts.encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    last = letters & 32 == 0
    if not len(letters) or (letters < 0).any() or (letters > 63).any() or not last[-1]:
        return np.full(1, -1)
    starts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    place = np.arange(len(letters)) - np.repeat(starts, np.diff(np.append(starts, len(letters))))
    if place.max() > 8:  # 45 bits and more: no picture is so large
        return np.full(1, -1)
    runs = np.add.reduceat((letters & 31) << (5 * place), starts)
    ends = np.flatnonzero(last)
    runs -= np.where(letters[ends] & 16, np.int64(1) << (5 * (place[ends] + 1)), 0)  # two's complement
    for first in (1, 2):  # odd and even runs from the second and third on add up
        runs[first::2] = np.cumsum(runs[first::2])
    return runs


def _line(error: Exception) -> str:
    return f"{type(error).__name__} {error}".splitlines()[0][:120]
