"""The parts of a collection: what is trained on, validated with, tested on, and all of it together."""

from __future__ import annotations

from dataclasses import dataclass

from mae_vlm.data.collection import open_collection
from mae_vlm.data.sources.base import Joined, Source
from mae_vlm.data.sources.scenes import Scenes
from mae_vlm.data.split import automatic_fraction, split_by_name

_OTHER_SCENES = 1_000_003  # added to the seed: validation scenes are never training scenes


@dataclass(frozen=True)
class Parts:
    """Sources by part ("train", "all" for predict, and "val" and "test" where there are any), their format, and the split in words."""

    sources: dict[str, Source]
    format: str
    split: str


def open_scenes(train: int, val: int, size: tuple[int, int], seed: int) -> Parts:
    """Generated scenes of ``size`` (height, width)."""
    scenes = Scenes(train, size, seed)
    sources: dict[str, Source] = {"train": scenes, "all": scenes}
    if val:
        sources["val"] = Scenes(val, size, seed + _OTHER_SCENES)
    return Parts(sources, "scenes", f"{val} other scenes")


def open_files(
    path: str, format: str, image_column: str | None, label_column: str | None, val_path: str | None, val_fraction: float | None
) -> Parts:
    """The collection at ``path``: ``val_path`` wins over its own split, and that over ``val_fraction``.

    Raises:
        ValueError: the path does not exist or holds no picture, or an option does not fit it.
    """
    found = open_collection(path, format, image_column, label_column)
    parts = dict(found.parts)
    whole = parts["all"] if "all" in parts else Joined(list(parts.values()))
    train = parts.pop("all", None) or parts["train"]
    if val_path is not None:
        other = open_collection(val_path, format, image_column, label_column, train.classes)
        parts["val"] = next(other.parts[name] for name in ("val", "all", "test", "train") if name in other.parts)
        split = f"val_path {val_path}"
    elif "val" in parts or "test" in parts:
        split = "the collection's own " + ("val" if "val" in parts else "test") + " part"
        parts.setdefault("val", parts.get("test", train))
    elif val_fraction != 0:
        fraction = automatic_fraction(len(train)) if val_fraction is None else val_fraction
        train, parts["val"] = split_by_name(train, fraction)
        split = f"{fraction:.3g} of the pictures, by a hash of their names"
    else:
        split = "none: val_fraction is 0"
    return Parts({**parts, "train": train, "all": whole}, found.format, split)
