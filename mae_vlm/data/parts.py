"""The parts of a collection: what is trained on, validated with, tested on, and all of it together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from mae_vlm.data.collection import open_collection
from mae_vlm.data.mixture import Prefixed, prefixes
from mae_vlm.data.problems import Problems
from mae_vlm.data.sources.base import Columns, Joined, Place, Source
from mae_vlm.data.sources.scenes import Scenes
from mae_vlm.data.split import automatic_fraction, split_by_name

MIXTURE = "mixture"  # what data.format says of several collections
_OTHER_SCENES = 1_000_003  # added to the seed: validation scenes are never training scenes


@dataclass
class Ingredient:
    """One collection of a mixture.

    Args:
        path: a folder, file or hub name, as ``data.path``; with format scenes none.
        weight: its share of the pictures trained on, beside the weights of the others.
        format: as ``data.format``.
        annotations: as ``data.annotations``.
        val_path: as ``data.val_path``.
        val_fraction: as ``data.val_fraction``.
    """

    path: str | None = None
    weight: float = 1.0
    format: str = "auto"
    annotations: str | list[str] | None = None
    val_path: str | None = None
    val_fraction: float | None = None

    def __post_init__(self) -> None:
        if (self.path is None) != (self.format == "scenes"):
            raise ValueError(f"data.mixture: path {self.path} with format {self.format}; give a path, or none with format scenes")
        if not 0 < self.weight < float("inf"):
            raise ValueError(f"data.mixture: weight {self.weight} of {self.name} must be positive; leave the collection out instead")

    @property
    def name(self) -> str:
        """The path, or what stands for it."""
        return self.path or "generated scenes"


@dataclass(frozen=True)
class Parts:
    """Sources by part ("train", "all" for predict, and "val" and "test" where there are any), their format, and the split in words.

    ``weights`` are those of a mixture, whose sources are ``Joined``; ``problems`` what was wrong with the annotations.
    """

    sources: dict[str, Source]
    format: str
    split: str
    problems: Problems = field(default_factory=Problems)
    weights: tuple[float, ...] = ()


def open_scenes(train: int, val: int, size: tuple[int, int], seed: int) -> Parts:
    """Generated scenes of ``size`` (height, width)."""
    scenes = Scenes(train, size, seed)
    sources: dict[str, Source] = {"train": scenes, "all": scenes}
    if val:
        sources["val"] = Scenes(val, size, seed + _OTHER_SCENES)
    return Parts(sources, "scenes", f"{val} other scenes")


def open_files(what: Ingredient, columns: Columns, problems: Problems) -> Parts:
    """The collection at ``what.path``: ``val_path`` wins over its own split, and that over ``val_fraction``.

    Raises:
        ValueError: the path does not exist or holds no picture, or an option does not fit it.
    """
    assert what.path is not None
    named = [what.annotations] if isinstance(what.annotations, str) else what.annotations or []
    place = Place(what.path, (), columns, tuple(named), problems=problems)
    found = open_collection(place, what.format)
    problems.settle()
    parts = dict(found.parts)
    whole = parts["all"] if "all" in parts else Joined(list(parts.values()))
    train = parts.pop("all", None) or parts["train"]
    if what.val_path is not None:
        if any(Path(name).is_absolute() for name in named):
            raise ValueError(
                f"data.annotations {named[0]} is one file for two collections, path and val_path; name it relative to their folders"
            )
        other = open_collection(replace(place, path=what.val_path, classes=train.classes, object_classes=train.object_classes), what.format)
        problems.settle()
        parts["val"] = next(other.parts[name] for name in ("val", "all", "test", "train") if name in other.parts)
        split = f"val_path {what.val_path}"
    elif "val" in parts or "test" in parts:
        split = "the collection's own " + ("val" if "val" in parts else "test") + " part"
        parts.setdefault("val", parts.get("test", train))
    elif what.val_fraction != 0:
        fraction = automatic_fraction(len(train)) if what.val_fraction is None else what.val_fraction
        train, parts["val"] = split_by_name(train, fraction)
        split = f"{fraction:.3g} of the pictures, by a hash of their names"
    else:
        split = "none: val_fraction is 0"
    return Parts({**parts, "train": train, "all": whole}, found.format, split, problems)


def open_mixture(what: list[Ingredient], columns: Columns, problems: Problems, scenes: Callable[[], Parts]) -> Parts:
    """Several collections as one: each part joins those of all, class numbers go by name.

    Collections that have names in common get their own before them (see ``mixture.prefixes``). ``scenes`` makes the generated ones.

    Raises:
        ValueError: as ``open_files``, for the first that fails.
    """
    opened = [scenes() if one.path is None else open_files(one, columns, problems) for one in what]
    before = prefixes([one.name for one in what], [one.sources["all"].names() for one in opened])
    sources: dict[str, Source] = {}
    for part in ("train", "val", "test", "all"):
        held = [(one.sources[part], prefix) for one, prefix in zip(opened, before, strict=True) if part in one.sources]
        if held:
            sources[part] = Joined([Prefixed(source, prefix) if prefix else source for source, prefix in held])
    split = "; ".join(f"{one.name}: {parts.split}" for one, parts in zip(what, opened, strict=True))
    return Parts(sources, MIXTURE, split, problems, tuple(one.weight for one in what))
