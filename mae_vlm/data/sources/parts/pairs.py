"""Pictures and the files that belong to them by name: ``images/a.jpg`` with ``annotations/a.xml`` or ``masks/a.png``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from mae_vlm.data.sources.base import Place
from mae_vlm.data.sources.parts.files import is_picture, walk

_PICTURES = ("images", "JPEGImages", "imgs", "image", "img", "leftImg8bit")
_LOOK_AT = 2000  # entries of a folder that are looked at to tell what is in it


def inner_folder(root: Path, names: Sequence[str]) -> Path | None:
    """The folder of ``root`` that has the first of these names, as written or with a capital; None where there is none.

    Asked by name, not by listing ``root``: that may hold a million pictures.
    """
    return next((root / spelt for name in names for spelt in (name, name.capitalize()) if (root / spelt).is_dir()), None)


def picture_folder(root: Path) -> Path | None:
    """The folder ``images`` of ``root``, or what else it is called."""
    return inner_folder(root, _PICTURES)


def named_folders(place: Place) -> list[Path]:
    """The folders that the user named by ``data.annotations``, in the first root."""
    return [place.root / name for name in place.annotations if (place.root / name).is_dir()]


def files_below(root: Path, suffixes: tuple[str, ...]) -> list[str]:
    """All files below ``root`` that end so, relative to it, in the order of ``walk``."""
    cut = len(os.path.join(os.fspath(root), ""))  # noqa: PTH118 (a string operation, once)
    return [entry.path[cut:] for entry in walk(root) if entry.name.lower().endswith(suffixes)]


def some_below(root: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Those of the first files below ``root`` that end so, relative to it."""
    return [os.path.relpath(entry.path, root) for entry in islice(walk(root), _LOOK_AT) if entry.name.lower().endswith(suffixes)]


def some_within(root: Path, suffix: str) -> list[str]:
    """Those of some of the files in ``root`` itself that end so, in any order: without listing a million others."""
    with os.scandir(root) as entries:
        return [entry.name for entry in islice(entries, _LOOK_AT) if entry.name.lower().endswith(suffix) and not entry.name.startswith(".")]


def pictures_below(root: Path) -> list[str]:
    """All pictures below ``root``, relative to it, in the order of ``walk``."""
    cut = len(os.path.join(os.fspath(root), ""))  # noqa: PTH118 (a string operation, once)
    return [entry.path[cut:] for entry in walk(root) if is_picture(entry.name)]


def stem(name: str) -> str:
    """A relative path without the last suffix of its file name."""
    return name[: -len(suffix)] if (suffix := os.path.splitext(name)[1]) else name  # noqa: PTH122 (a string operation, a million times)
