"""From a path to sources: which format it is, and whether it brings its own train, val and test parts."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mae_vlm.data.sources import hub
from mae_vlm.data.sources.base import Source
from mae_vlm.data.sources.image_folder import ImageFolder, is_picture, walk
from mae_vlm.data.sources.parquet import Parquet
from mae_vlm.data.sources.tar_shards import TarShards

FORMATS = ("auto", "scenes", "folder", "parquet", "tar", "hub")
_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
_LOOK_AT = 2000  # files whose sizes tell the format


@dataclass(frozen=True)
class Collection:
    """The sources of one path: ``parts`` by split ("train", "val", "test"), or under "all" where it brings no split."""

    path: str
    format: str
    parts: dict[str, Source]


def open_collection(
    path: str, format: str = "auto", image_column: str | None = None, label_column: str | None = None, classes: list[str] | None = None
) -> Collection:
    """Opens a folder, a file or ``hf://datasets/org/name``; ``classes`` fixes the label order of class folders.

    A split is told by names: sub-folders ``train``, ``val`` (``valid``, ``validation``, ``dev``), ``test``, or files that begin so, as
    ``train-00000-of-00002.parquet``; also one level down in ``data``. Without a train part, all is one part.

    Raises:
        ValueError: the path does not exist, is empty, or holds nothing of the format; one line that says what to do.
    """
    if format not in FORMATS:
        raise ValueError(f"data.format {format} is unknown; use one of {', '.join(FORMATS)}")
    if path.startswith(hub.PREFIX) or format == "hub":
        return Collection(path, "hub", _hub_parts(hub.open_hub(path, image_column, label_column)))
    root = Path(path).expanduser()
    _check_exists(root, path)
    places = find_splits(root)
    told = tell_format(next(iter(places.values())), path) if format == "auto" else format
    parts: dict[str, Source] = {}
    for split, roots in places.items():
        parts[split] = _open(told, roots, image_column, label_column, classes, path)
        classes = classes or parts[split].classes  # labels of all parts follow the first
    return Collection(path, told, parts)


def find_splits(root: Path) -> dict[str, list[Path]]:
    """Folders and files of each split below ``root``, train first; {"all": [root]} where there is no split."""
    if root.is_file():
        return {"all": [root]}
    found: dict[str, list[Path]] = {}
    visible = [entry for entry in sorted(root.iterdir()) if not entry.name.startswith(".")]
    for entry in visible:
        split = _split_of(entry)
        if split:
            found.setdefault(split, []).append(entry)
    if "train" in found and len(found) > 1:
        return {split: found[split] for split in ("train", "val", "test") if split in found}
    if (
        len(found.get("train", [])) == 1
        and found["train"][0].is_dir()
        and all(entry.is_file() or entry in found["train"] for entry in visible)
    ):
        return find_splits(found["train"][0])  # nothing but a train folder: its content is the collection
    folders = [entry for entry in visible if entry.is_dir()]
    if len(folders) == 1 and folders[0].name.lower() == "data":
        inner = find_splits(folders[0])
        if "all" not in inner:
            return inner
    return {"all": [root]}


def tell_format(roots: list[Path], path: str) -> str:
    """Tells "folder", "parquet" or "tar": whatever most bytes are, of the first files below ``roots``.

    Raises:
        ValueError: there is none of them.
    """
    sizes: Counter[str] = Counter()
    for root in roots:
        if root.is_file():
            sizes[_kind(root.name)] += root.stat().st_size + 1
            continue
        for entry in islice(walk(root), _LOOK_AT):
            sizes[_kind(entry.name)] += entry.stat().st_size + 1
    sizes.pop("", None)
    if not sizes:
        held = "is an empty folder" if roots[0].is_dir() and not any(roots[0].iterdir()) else "holds no picture"
        raise ValueError(f"data.path {path} {held}; give a folder of pictures (.jpg, .png ...), .parquet tables or .tar shards")
    return sizes.most_common(1)[0][0]


def _kind(name: str) -> str:
    if is_picture(name):
        return "folder"
    suffix = name.lower().rpartition(".")[2]
    return suffix if suffix in ("parquet", "tar") else ""


def _split_of(entry: Path) -> str | None:
    name = entry.name.lower()
    if entry.is_dir():
        return _SPLIT_NAMES.get(name)
    match = re.match(r"([a-z]+)(?=[-_.0-9])", name)
    return _SPLIT_NAMES.get(match.group(1)) if match and name.endswith((".parquet", ".tar")) else None


def _open(
    format: str, roots: list[Path], image_column: str | None, label_column: str | None, classes: list[str] | None, path: str
) -> Source:
    if format == "folder":
        if len(roots) > 1:
            raise ValueError(
                f"data.path {path} holds several folders of one split ({', '.join(r.name for r in roots)}); join them into one"
            )
        return ImageFolder(roots[0], classes)
    files = [file for root in roots for file in ([root] if root.is_file() else _files(root, format))]
    if not files:
        raise ValueError(f"data.path {path} holds no .{format} file; set data.format to another of {', '.join(FORMATS)}")
    return Parquet(files, image_column, label_column) if format == "parquet" else TarShards(files)


def _files(root: Path, suffix: str) -> list[Path]:
    return [Path(entry.path) for entry in walk(root) if entry.name.lower().endswith(f".{suffix}")]


def _hub_parts(parts: dict[str, Source]) -> dict[str, Source]:
    named = {_SPLIT_NAMES.get(name.lower(), ""): source for name, source in parts.items()}
    named.pop("", None)
    return named if "train" in named else {"all": next(iter(parts.values()))}


def _check_exists(root: Path, path: str) -> None:
    if root.exists():
        return
    hint = f"; for a data set of the Hugging Face hub write {hub.PREFIX}{path}" if re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w.-]+)?", path) else ""
    raise ValueError(f"data.path {path} does not exist; give a folder, a .parquet or .tar file, or a picture{hint}")
