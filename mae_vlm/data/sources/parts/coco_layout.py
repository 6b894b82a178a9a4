"""Where a COCO collection has its json files, what is in them, which to read, and where their pictures are."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mae_vlm.data.sources.base import Place
from mae_vlm.data.sources.parts.files import missing
from mae_vlm.data.sources.parts.json_stream import ends
from mae_vlm.data.sources.parts.pairs import inner_folder
from mae_vlm.data.sources.parts.split_names import split_in

_MOST_FILES = 100  # json files of one folder that are looked into: a folder with one per picture is no COCO
_ASKED = 50  # pictures that are looked for in a folder
_KINDS = {  # words of a file's name
    "panoptic": "panoptic",
    "captions": "captions",
    "caption": "captions",
    "keypoints": "keypoints",
    "instances": "instances",
    "instance": "instances",
    "detection": "detection",
    "detections": "detection",
}
_OBJECTS = ("instances", "detection", "boxes", "panoptic")  # the first that is there is read, unless the user names another


@dataclass(frozen=True)
class Annotations:
    """One json file: its kind (a key of ``_KINDS``'s values, or "boxes") and the part its name tells, if any."""

    file: Path
    kind: str
    split: str | None


@dataclass(frozen=True)
class Choice:
    """The file with objects and the one with captions that are read for one part; at least one of them."""

    objects: Annotations | None
    captions: Annotations | None


def look(place: Place, root: Path) -> list[Annotations]:
    """The COCO files of one root: those that the user named, else all in it and in its folder ``annotations``."""
    files = [root] if root.is_file() else []
    if root.is_dir():
        inner = inner_folder(root, ("annotations",))
        folders = [root] if inner is None else [root, inner]
        named = dict.fromkeys(folder / name for name in place.annotations for folder in folders if (folder / name).is_file())
        files = list(named) if place.annotations else [file for folder in folders for file in _json_files(folder)]
    found = [(file, _kind(file)) for file in files if file.suffix.lower() == ".json"]
    return [Annotations(file, kind, split_in(file.stem)) for file, kind in found if kind is not None]


def choose(place: Place, found: Sequence[Annotations]) -> dict[str, Choice]:
    """What to read by part: "train" and others where the names tell a train part and another, else "all".

    Raises:
        ValueError: two files could be meant, or those named are none.
    """
    splits = {one.split for one in found if one.split}
    if "train" not in splits or len(splits) < 2:
        return {"all": _choice(place, found)}
    parts = {split: [one for one in found if one.split in (split, None)] for split in ("train", "val", "test") if split in splits}
    return {split: _choice(place, sorted(files, key=lambda one: one.split is None)) for split, files in parts.items()}


def picture_folder(place: Place, file: Path, names: Sequence[str], needed: bool = True) -> Path | None:
    """The folder below which most of the pictures are that ``file`` names; None where none of them is anywhere near.

    Raises:
        ValueError: that, if they are ``needed``.
    """
    asked = names[:: max(1, len(names) // _ASKED)]
    words = re.findall("[A-Za-z]+[0-9]*", file.stem)
    homes = list(dict.fromkeys([file.parent, file.parent.parent, *(root for root in place.roots if root.is_dir())]))
    inner = ("images", "", "JPEGImages", *words, *(f"images/{word}" for word in words))
    folders: list[Path] = [home / name for home in homes for name in inner]
    lost = [len(missing(folder, asked)) for folder in folders]
    if min(lost) < len(set(asked)):
        return folders[lost.index(min(lost))]
    if not needed:
        return None
    looked = ", ".join(str(home / name) for home in homes for name in ("images", ""))
    raise ValueError(f"no picture of {file} is found, as {names[0]}; looked in {looked}; put the pictures into images beside the json file")


def _choice(place: Place, files: Sequence[Annotations]) -> Choice:
    wanted = (*_OBJECTS, "keypoints") if place.annotations else _OBJECTS
    objects = [one for kind in wanted for one in files if one.kind == kind]
    captions = [one for one in files if one.kind == "captions"]
    for several in (objects, captions):
        same = [one for one in several if place.annotations or one.kind == several[0].kind]
        rivals = [one for one in same if one.split == several[0].split]
        if len(rivals) > 1:
            names = ", ".join(one.file.name for one in rivals)
            raise ValueError(
                f"{rivals[0].file.parent} holds several annotation files that could be meant ({names}); name one by data.annotations"
            )
    if not objects and not captions:
        raise ValueError(
            f"data.path {place.path} holds no COCO file of boxes, masks or captions; give another path, or name one by data.annotations"
        )
    return Choice(objects[0] if objects else None, captions[0] if captions else None)


def _json_files(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.name.lower().endswith(".json") and not entry.name.startswith("."))
    return [folder / name for name in names] if len(names) <= _MOST_FILES else []


def _kind(file: Path) -> str | None:
    """What a json file holds, by its two ends; None where it is not COCO's."""
    try:
        text = ends(file)
    except OSError:
        return None
    names_pictures = '"images"' in text and ('"file_name"' in text or '"coco_url"' in text)
    if not names_pictures or not ('"annotations"' in text or '"image_id"' in text):
        return None
    for word in re.findall("[a-z]+", file.stem.lower()):
        if word in _KINDS:
            return _KINDS[word]
    marks = {"segments_info": "panoptic", "bbox": "boxes", "segmentation": "boxes", "caption": "captions"}
    return next((kind for mark, kind in marks.items() if f'"{mark}"' in text), None)
