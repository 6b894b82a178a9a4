"""Pascal VOC: an xml file of boxes for each picture.

Layouts: the official one (``JPEGImages``, ``Annotations``, ``ImageSets/Main/train.txt`` and ``val.txt``, also as ``VOC2007`` and
``VOC2012`` in one folder), or a folder of pictures (``images``, or the path itself) with xml files in ``annotations`` or beside them.
Objects that are ``difficult`` do not count in VOC's evaluation: they become crowds, which do not count in COCO's. The official files
count pixels from 1, both ends inclusive, and lose one at the left and top; other tools' files count from 0 and are taken as written.
Instance masks come from ``SegmentationObject``; the classes of ``SegmentationClass`` are read by the format ``masks``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mae_vlm.data.sources.base import Format, Joined, Place, Source
from mae_vlm.data.sources.parts.annotated import Annotated
from mae_vlm.data.sources.parts.files import is_picture
from mae_vlm.data.sources.parts.mask_pixels import ObjectPixels
from mae_vlm.data.sources.parts.objects import Objects
from mae_vlm.data.sources.parts.pairs import (
    files_below,
    inner_folder,
    named_folders,
    picture_folder,
    pictures_below,
    some_below,
    some_within,
    stem,
)
from mae_vlm.data.sources.parts.together import together
from mae_vlm.data.sources.parts.voc_objects import VocObjects, masks_there
from mae_vlm.types import Sample

_XML_FOLDERS = ("annotations", "xmls", "xml", "labels")
_LOOKED_AT = 20  # xml files that tell whether they are annotations
_LISTS = {"train": ("train", "trainval"), "val": ("val",), "test": ("test",)}  # the files of ImageSets/Main, the first that is there


class ObjectMaps:
    """Masks of the pictures ``there_N``: object k of the xml file is number k, from 1, in ``folder/stem.png``."""

    def __init__(self, folder: Path, there_N: NDArray[np.bool_], objects: Objects) -> None:
        self.folder, self._there_N, self._objects = folder, there_N, objects

    def fill(self, sample: Sample, index: int) -> None:
        if self._there_N[index]:
            assert self._objects.marks is not None
            file = self.folder / f"{stem(sample.id)}.png"
            sample.masks = ObjectPixels(sample.id, sample.image, file, self._objects.marks[self._objects.rows(index)])


def _claims(place: Place) -> bool:
    return any(_xml_folder(place.at(home)) for home in _homes(place))


def _homes(place: Place) -> list[Path]:
    """The folders that hold pictures with xml files: the roots, or the years in them."""
    years = [root / f"VOC{year}" for root in place.roots for year in range(2005, 2013) if (root / f"VOC{year}").is_dir()]
    return years or [root for root in place.roots if root.is_dir()]


def _xml_folder(place: Place) -> Path | None:
    """The folder of annotations: the one named, or one of the usual names, or that of the pictures; None where none holds any."""
    if place.annotations:
        folders = [folder for folder in named_folders(place) if _is_voc(folder, some_below(folder, (".xml",)))]
        return next(iter(folders), None)
    inner = inner_folder(place.root, _XML_FOLDERS)
    if inner is not None and _is_voc(inner, some_below(inner, (".xml",))):
        return inner
    beside = (folder for folder in (picture_folder(place.root), place.root) if folder is not None)
    return next((folder for folder in beside if _is_voc(folder, some_within(folder, ".xml"))), None)


def _is_voc(folder: Path, names: Sequence[str]) -> bool:
    """Whether one of the first few files is an annotation, in whatever encoding."""
    return any(b"<annotation" in _start(folder / name).replace(b"\0", b"") for name in names[:_LOOKED_AT])


def _start(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(2000)


def _open(place: Place) -> dict[str, Source]:
    homes: dict[str, list[Source]] = {}
    for home in _homes(place) or place.roots:
        for split, source in _open_home(place.at(home)).items():
            homes.setdefault(split, []).append(source)
            place = replace(place, object_classes=place.object_classes or source.object_classes)
    if "all" in homes and len(homes) > 1:
        homes = {"all": [source for sources in homes.values() for source in sources]}
    return {split: sources[0] if len(sources) == 1 else Joined(sources) for split, sources in homes.items()}


def _open_home(place: Place) -> dict[str, Source]:
    xml = _xml_folder(place)
    if xml is None:
        raise ValueError(
            f"data.path {place.path} holds no xml annotation; put the files into annotations beside images, or give another path"
        )
    pictures = picture_folder(place.root) or place.root
    names = pictures_below(pictures)
    lists = _lists(place.root)
    if not lists:
        return {"all": _part(place, pictures, names, xml, files_below(xml, (".xml",)))}
    by_stem, there = {stem(name): name for name in names}, {stem(name) for name in files_below(xml, (".xml",))}
    parts: dict[str, Source] = {}
    for split, file in lists.items():
        lines = [line.split()[0] for line in file.read_text("utf-8", "replace").splitlines() if line.strip()]
        listed = list(dict.fromkeys(_listed_stem(line, by_stem) for line in lines))
        found = [one for one in listed if one in by_stem]
        if not found:
            continue  # a list without its pictures: that part was not downloaded
        for one in listed:
            if one not in by_stem:
                place.problems.add("picture missing", file, one, f"not in {pictures}")
        parts[split] = _part(place, pictures, [by_stem[one] for one in found], xml, [f"{one}.xml" for one in found if one in there])
        place = replace(place, object_classes=place.object_classes or parts[split].object_classes)
    if not parts:
        told = ", ".join(file.name for file in lists.values())
        raise ValueError(f"no picture that {place.root / 'ImageSets' / 'Main'} lists ({told}) is in {pictures}; put them there")
    return parts if "train" in parts and len(parts) > 1 else {"all": together(list(parts.values()))}


def _listed_stem(name: str, by_stem: dict[str, str]) -> str:
    """What a line of a list calls a picture, without the suffix that some lists write."""
    return stem(name) if name not in by_stem and is_picture(name.rpartition("/")[2]) else name


def _lists(root: Path) -> dict[str, Path]:
    folder = root / "ImageSets" / "Main"
    found = {
        split: next((folder / f"{name}.txt" for name in names if (folder / f"{name}.txt").is_file()), None)
        for split, names in _LISTS.items()
    }
    return {split: file for split, file in found.items() if file is not None}


def _part(place: Place, pictures: Path, names: Sequence[str], xml: Path, files: Sequence[str]) -> Source:
    if not names:
        raise ValueError(f"no pictures in {pictures}, beside the xml files of {xml}; check data.path")
    reader = VocObjects(xml, names, place.problems)
    for file in files:
        reader.read(file)
    official = (place.root / "ImageSets").is_dir() and pictures.name == "JPEGImages"
    classes, objects = reader.finish(place.object_classes, first_pixel=1 if official else 0)
    maps = place.root / "SegmentationObject"
    pixels = ObjectMaps(maps, masks_there(maps, names), objects) if maps.is_dir() else None
    return Annotated(pictures, names, classes, objects, pixels=pixels)


FORMAT = Format("voc", _claims, _open)
