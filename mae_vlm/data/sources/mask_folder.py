"""Pictures with masks of class numbers: ``images/a.jpg`` and ``masks/a.png``, or what else the two folders are called.

A mask is a grey PNG of 8 or 16 bits or a palette PNG, and has the stem of its picture; ``_leftImg8bit`` and ``_gtFine_labelTrainIds``
(Cityscapes), ``_mask``, ``_label`` and ``_seg`` do not count. Its numbers are the class numbers, and 255 (65535 in 16 bits) is
unlabelled; masks that hold only 0 and 255 are read as classes 0 and 1. Names of classes come from ``classes.txt`` (one a line) or
``classes.json`` (a list, or names by number), in the folder or above it. Without them the classes are "0" up to the highest number
in a sample of the masks: write ``classes.txt`` where a class is rare. Folders ``training`` and ``validation`` in both are the split.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from mae_vlm.data.header import FORMATS
from mae_vlm.data.sources.base import Format, Joined, Part, Place, Source
from mae_vlm.data.sources.parts.annotated import Annotated
from mae_vlm.data.sources.parts.files import EXTENSIONS
from mae_vlm.data.sources.parts.mask_classes import ClassNumbers, class_names, count_classes
from mae_vlm.data.sources.parts.pairs import files_below, inner_folder, named_folders, picture_folder, pictures_below, some_below, stem
from mae_vlm.data.sources.parts.split_names import SPLIT_NAMES
from mae_vlm.types import Sample

_FOLDERS = ("masks", "mask", "semantic", "labels", "annotations", "gtFine", "SegmentationClass", "ground_truth", "gt")
_ENDINGS = re.compile(r"_(leftImg8bit|gtFine_labelTrainIds|gtFine_labelIds|masks?|labels?|seg|segmentation)$")
_NO_CLASSES = re.compile(r"_gtFine_(color|instanceIds|instanceTrainIds|polygons)$")
_LOOKED_AT = 20  # masks that tell whether a folder holds masks
_MASK_FILES = (".png", ".tif", ".tiff", ".bmp", ".gif")


class ClassMasks:
    """The masks ``names`` (one for each picture, or None) below ``folder``."""

    def __init__(self, folder: Path, names: Sequence[str | None], classes: int, binary: bool) -> None:
        self.folder, self._classes, self._binary = folder, classes, binary
        self._names = pa.array([None if name is None else os.fsencode(name) for name in names], pa.large_binary())

    def fill(self, sample: Sample, index: int) -> None:
        name = self._names[index].as_py()
        if name is not None:
            sample.semantic = ClassNumbers(sample.id, sample.image, self.folder / os.fsdecode(name), self._classes, self._binary)


def _key(name: str) -> str:
    """What a picture and its mask share."""
    return _ENDINGS.sub("", stem(name))


def _mask_folder(place: Place) -> Path | None:
    return next(iter(named_folders(place)), None) if place.annotations else inner_folder(place.root, _FOLDERS)


def _claims(place: Place) -> bool:
    for root in place.roots:
        masks = _mask_folder(place.at(root))
        if masks is not None:
            pictures = picture_folder(root) or root
            some = some_below(masks, _MASK_FILES)[:_LOOKED_AT]
            return any(_is_mask(masks / name) and _has_picture(pictures, name) for name in some)
    return False


def _is_mask(file: Path) -> bool:
    try:
        with Image.open(file, formats=FORMATS) as image:
            return image.mode in ("1", "L", "P") or image.mode.startswith("I")
    except Exception:  # Pillow's plugins raise what they like on files of other kinds
        return False


def _has_picture(pictures: Path, mask: str) -> bool:
    candidates = (f"{_key(mask)}{ending}{suffix}" for ending in ("", "_leftImg8bit") for suffix in (*EXTENSIONS, ".JPG", ".JPEG", ".PNG"))
    return any((pictures / candidate).is_file() for candidate in candidates)


def _open(place: Place) -> dict[str, Source]:
    if len(place.roots) > 1:
        return {"all": Joined([_open(place.at(root))["all"] for root in place.roots])}
    masks = _mask_folder(place)
    if masks is None:
        raise ValueError(f"data.path {place.path} holds no folder of masks; call it masks beside images, or name it by data.annotations")
    pictures = picture_folder(place.root) or place.root
    names = [name for name in pictures_below(pictures) if masks not in (pictures / name).parents]
    paired = _pair(place, pictures, names, masks)
    files = [masks / name for name in paired if name is not None]
    count, binary = count_classes(files)
    classes = place.object_classes or class_names((place.root, place.root.parent)) or [str(number) for number in range(count)]
    whole = Annotated(pictures, names, classes, pixels=ClassMasks(masks, paired, len(classes), binary))
    return _by_folder(whole, names) or {"all": whole}


def _pair(place: Place, pictures: Path, names: Sequence[str], masks: Path) -> list[str | None]:
    """The mask of each picture, or None; a mask without a picture is a problem."""
    found = [name for name in files_below(masks, _MASK_FILES) if not _NO_CLASSES.search(stem(name))]
    by_key = {_key(name): name for name in sorted(found, key=lambda name: "labelTrainIds" in name)}  # these win over labelIds
    known = {_key(name) for name in names}
    if not known & by_key.keys():
        raise ValueError(f"no mask in {masks} has the name of a picture in {pictures}; masks/a.png belongs to images/a.jpg")
    for key in sorted(by_key.keys() - known):
        place.problems.add("mask without a picture", masks / by_key[key], key, f"not in {pictures}")
    return [by_key.get(_key(name)) for name in names]


def _by_folder(whole: Source, names: Sequence[str]) -> dict[str, Source] | None:
    """The split that the first-level folders are, if all are parts and one is train."""
    split_N = np.array([SPLIT_NAMES.get(name.split(os.sep, 1)[0].lower(), "") for name in names])
    splits = [split for split in ("train", "val", "test") if (split_N == split).any()]
    if (split_N == "").any() or "train" not in splits or len(splits) < 2:
        return None
    return {split: Part(whole, np.flatnonzero(split_N == split).astype(np.int64)) for split in splits}


FORMAT = Format("masks", _claims, _open)
