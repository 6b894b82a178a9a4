"""From a path to sources: which format it is, and whether it brings its own train, val and test parts."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mae_vlm.data.remote import is_remote, list_remote
from mae_vlm.data.sources import (
    captions,
    coco,
    hub,
    image_folder,
    karpathy,
    mask_folder,
    nlvr2,
    parquet,
    picture_list,
    qa,
    reasoning_scenes,
    tar_shards,
    vcr,
    visual_genome,
    voc,
    vqav2,
)
from mae_vlm.data.sources.base import Format, Place, Source
from mae_vlm.data.sources.parts.files import first_files, is_picture
from mae_vlm.data.sources.parts.split_names import SPLIT_NAMES
from mae_vlm.data.sources.parts.together import together

# Formats with annotations first, the most telling first: the first that claims a place opens it.
_ANNOTATED: tuple[Format, ...] = (
    coco.FORMAT,
    voc.FORMAT,
    karpathy.FORMAT,
    vqav2.FORMAT,
    nlvr2.FORMAT,
    vcr.FORMAT,
    visual_genome.FORMAT,
    qa.FORMAT,
    captions.FORMAT,
    picture_list.FORMAT,
    mask_folder.FORMAT,
)
# Then what the bytes are of.
_PLAIN: tuple[Format, ...] = (image_folder.FORMAT, parquet.FORMAT, tar_shards.FORMAT)
FORMATS = ("auto", "scenes", "generated", "hub", *(format.name for format in _ANNOTATED + _PLAIN))
_LOOK_AT = 2000  # files whose sizes tell the format


@dataclass(frozen=True)
class Collection:
    """The sources of one path: ``parts`` by split ("train", "val", "test"), or under "all" where it brings no split."""

    path: str
    format: str
    parts: dict[str, Source]


def open_collection(place: Place, format: str = "auto") -> Collection:
    """Opens ``place.path``: a folder, a file, shards on s3://, gs://, https:// or hf://, ``hf://datasets/org/name``, or generated ``scenes://pairs``.

    ``place.roots`` is found from the path.

    A split is told by names: sub-folders ``train``, ``val`` (``valid``, ``validation``, ``dev``), ``test``, or files that begin so, as
    ``train-00000-of-00002.parquet``; also one level down in ``data``. A format that knows its own splits comes before that.
    Without a train part, all is one part. Labels of all parts follow the first.

    Raises:
        ValueError: the path does not exist, is empty, or holds nothing of the format; one line that says what to do.
    """
    if format not in FORMATS:
        raise ValueError(f"data.format {format} is unknown; use one of {', '.join(FORMATS)}")
    if place.path.startswith(reasoning_scenes.PREFIX) or format == "generated":
        return Collection(place.path, "generated", reasoning_scenes.open_address(place.path))
    if is_remote(place.path):
        return _open_remote(place, format)
    if place.path.startswith(hub.PREFIX) or format == "hub":
        return Collection(place.path, "hub", _named_parts(hub.open_hub(place.path, place.columns)))
    root = Path(place.path).expanduser()
    _check_exists(root, place.path)
    whole = place.at(root)
    known = next((one for one in _ANNOTATED if format in ("auto", one.name) and one.claims(whole)), None)
    splits = {"all": (root,)} if known else find_splits(root)
    told = known or tell_format(place.at(*next(iter(splits.values()))), format)
    parts: dict[str, Source] = {}
    for split, roots in splits.items():
        opened = told.open(place.at(*roots))
        if len(splits) == 1:
            parts = opened
            break
        parts[split] = opened["all"] if "all" in opened else opened[split]
        place = replace(
            place, classes=place.classes or parts[split].classes, object_classes=place.object_classes or parts[split].object_classes
        )
    return Collection(place.path, told.name, parts)


def _open_remote(place: Place, format: str) -> Collection:
    """Tar shards or parquet tables at an address, whichever are more bytes; parts are told as on a disk."""
    tree = list_remote(place.path)
    kinds = {"tar": tree.files(".tar"), "parquet": tree.files(".parquet")}
    kind = max(kinds, key=lambda name: sum(file.size for file in kinds[name])) if format == "auto" else format
    if not kinds.get(kind):
        raise ValueError(f"data.format {format}: {place.path} holds no such files; remote collections are tar or parquet files")
    parts: dict[str, Source] = {}
    for split, roots in find_splits(tree).items():
        files = [file for root in roots for file in root.files(f".{kind}")]
        if not files:
            continue
        first = next(iter(parts.values()), None)
        classes, objects = (first.classes, first.object_classes) if first else (place.classes, place.object_classes)
        if kind == "tar":
            parts[split] = tar_shards.TarShards(files, classes, objects)
        else:
            parts[split] = parquet.Parquet(files, place.columns, classes)
    if not parts:
        raise ValueError(f"data.path {place.path} holds no .{kind} file in its parts; give the folder that holds them")
    return Collection(place.path, kind, parts if "train" in parts else {"all": together(list(parts.values()))})


def find_splits(root: Any) -> dict[str, tuple[Any, ...]]:
    """Folders and files of each split below ``root``, train first; {"all": [root]} where there is no split.

    ``root`` is a ``Path``, or a ``RemoteTree``, and so is what is found.
    """
    if root.is_file():
        return {"all": (root,)}
    found: dict[str, list[Any]] = {}
    folders: list[Any] = []
    for entry in os.scandir(root) if isinstance(root, Path) else root.iterdir():
        if entry.name.startswith("."):
            continue
        split = _split_of(entry)
        if split:
            found.setdefault(split, []).append(entry)
        if entry.is_dir():
            folders.append(entry)
    if "train" in found and len(found) > 1:
        return {split: _places(found[split]) for split in ("train", "val", "test") if split in found}
    train = found.get("train", [])
    if len(train) == 1 and folders == train:
        return find_splits(_places(train)[0])  # nothing but a train folder: its content is the collection
    if len(folders) == 1 and folders[0].name.lower() == "data":
        inner = find_splits(_places(folders)[0])
        if "all" not in inner:
            return inner
    return {"all": (root,)}


def tell_format(place: Place, format: str = "auto") -> Format:
    """The format named; or of those that claim the place, the first; or whatever most bytes are, of the first files below it.

    Raises:
        ValueError: there is none.
    """
    for one in _ANNOTATED + _PLAIN:
        if format == one.name or (format == "auto" and one in _ANNOTATED and one.claims(place)):
            return one
    sizes: Counter[str] = Counter()
    for root in place.roots:
        if root.is_file():
            sizes[_kind(root.name)] += root.stat().st_size + 1
            continue
        for entry in first_files(root, _LOOK_AT):
            sizes[_kind(entry.name)] += entry.stat().st_size + 1
    sizes.pop("", None)
    if not sizes:
        held = "is an empty folder" if place.root.is_dir() and not any(place.root.iterdir()) else "holds no picture"
        raise ValueError(f"data.path {place.path} {held}; give a folder of pictures (.jpg, .png ...), .parquet tables or .tar shards")
    most = sizes.most_common(1)[0][0]
    return next(one for one in _PLAIN if one.name == most)


def _kind(name: str) -> str:
    if is_picture(name):
        return "folder"
    suffix = name.lower().rpartition(".")[2]
    return suffix if suffix in ("parquet", "tar") else ""


def _split_of(entry: Any) -> str | None:
    name = entry.name.lower()
    if name.endswith((".parquet", ".tar")) and entry.is_file():
        match = re.match(r"([a-z]+)(?=[-_.0-9])", name)
        return SPLIT_NAMES.get(match.group(1)) if match else None
    return SPLIT_NAMES.get(name) if name in SPLIT_NAMES and entry.is_dir() else None


def _places(entries: list[Any]) -> tuple[Any, ...]:
    ordered = sorted(entries, key=lambda entry: entry.name)
    return tuple(Path(entry.path) if isinstance(entry, os.DirEntry) else entry for entry in ordered)


def _named_parts(parts: dict[str, Source]) -> dict[str, Source]:
    named = {SPLIT_NAMES.get(name.lower(), ""): source for name, source in parts.items()}
    named.pop("", None)
    return named if "train" in named else {"all": together(list(parts.values()))}


def _check_exists(root: Path, path: str) -> None:
    if root.exists():
        return
    hint = f"; for a data set of the Hugging Face hub write {hub.PREFIX}{path}" if re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w.-]+)?", path) else ""
    raise ValueError(
        f"data.path {path} does not exist; give a folder, a list (.csv, .jsonl ...), a .parquet or .tar file, or a picture{hint}"
    )
