"""What one reading of each picture tells: sizes, kind, pixels' moments, a thumbnail, words; chunk by chunk, in arrays."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from data_prep.misfits import misfits
from data_prep.moments import Moments
from data_prep.perceptual_hash import SIDE, colours, thumbnail
from data_prep.pixels import digest, file_bytes, picture, pixels
from mae_vlm.data.decode import Picture
from mae_vlm.data.sources.base import Source
from mae_vlm.types import Sample

CHUNK = 64  # pictures of one task
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")  # as of the files that are taken for pictures
FACTS = np.dtype(
    [
        ("part", "u1"),  # number of the part
        ("index", "i8"),  # in its source
        ("height", "i4"),
        ("width", "i4"),
        ("bytes", "i8"),  # of the file; 0 where there is none
        ("digest", "u8"),  # of the file's bytes, or of the pixels
        ("label", "i4"),  # -1: none
        ("spread", "f4"),  # the largest deviation of a channel, in [0, 1]
        ("captions", "i4"),
        ("objects", "i4"),  # -1: none known
        ("colours", "i1", (4, 4, 2)),
        ("kind", "S24"),  # "jpeg RGB 3"
    ]
)


@dataclass
class Looks:
    """Facts, thumbnails uint8 ``[N, 32, 32]`` and moments of the readable pictures; (part, index, name, reason) of the others.

    ``caption_words`` and ``caption_hashes`` hold each caption's number of words and 64 bits of its text, in order; ``annotations``
    are (kind, file, name, facts) of boxes and masks that do not fit their picture, as ``Problems.add`` takes them.
    """

    facts: NDArray[np.void]
    thumbs: NDArray[np.uint8]
    moments: Moments = field(default_factory=Moments)
    failures: list[tuple[int, int, str, str]] = field(default_factory=list)
    annotations: list[tuple[str, str, str, str]] = field(default_factory=list)
    caption_words: list[int] = field(default_factory=list)
    caption_hashes: list[int] = field(default_factory=list)


class Look:
    """``look((part, start))`` reads ``CHUNK`` pictures of a part from ``start`` on; picklable."""

    def __init__(self, sources: list[Source], value_range: tuple[float, float] | None = None) -> None:
        self.sources, self.value_range = sources, value_range

    def __call__(self, task: tuple[int, int]) -> Looks:
        part, start = task
        source = self.sources[part]
        looks = Looks(np.empty(0, FACTS), np.empty((0, SIDE, SIDE), np.uint8))
        rows: list[tuple[Any, ...]] = []
        thumbs: list[NDArray[np.uint8]] = []
        for index in range(start, min(start + CHUNK, len(source))):
            try:
                sample = source[index]
                found = picture(sample, self.value_range)
                image_CHW = pixels(found)
                thumbs.append(thumbnail(image_CHW))
            except (ValueError, OSError) as error:
                looks.failures.append((part, index, source.name(index), str(error)))
                continue
            rows.append((part, index, *_facts(sample, found, image_CHW, looks)))
        if rows:
            looks.facts, looks.thumbs = np.array(rows, FACTS), np.stack(thumbs)
        return looks


def _facts(sample: Sample, found: Picture, image_CHW: Tensor, looks: Looks) -> tuple[Any, ...]:
    own = Moments()
    own.add(image_CHW)
    looks.moments.merge(own)
    _read_words(sample, looks)
    looks.annotations += misfits(sample, found.height, found.width)
    return (
        found.height,
        found.width,
        file_bytes(sample),
        digest(sample),
        -1 if sample.label is None else sample.label,
        max(own.mean_and_deviation()[1]),
        len(sample.captions),
        -1 if sample.boxes is None else len(sample.boxes),
        colours(image_CHW),
        f"{_mode(sample, found)} {image_CHW.shape[0]}".encode(),
    )


def _mode(sample: Sample, found: Picture) -> str:
    """File format and mode as Pillow calls them, "jpeg RGB"; "bands" where Pillow does not know them."""
    if isinstance(sample.image, Tensor):
        return "pixels"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(sample.image) if isinstance(sample.image, bytes) else sample.image, formats=FORMATS) as image:
                return f"{found.header.format} {image.mode}"
    except Exception:  # Pillow's plugins raise what they like
        return f"{found.header.format} bands"


def _read_words(sample: Sample, looks: Looks) -> None:
    for caption in sample.captions:
        looks.caption_words.append(len(caption.split()))
        looks.caption_hashes.append(caption_hash(caption))


def caption_hash(caption: str) -> int:
    """64 bits of a caption, whatever its capitals and spaces."""
    return int.from_bytes(blake2b(" ".join(caption.lower().split()).encode("utf-8", "replace"), digest_size=8).digest(), "little")
