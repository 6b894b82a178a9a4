"""COCO's json files: boxes, polygon and run-length masks, crowds, captions and panoptic maps.

Layouts: one part as a folder with ``instances.json`` (or ``detection.json``, any json with boxes, ``panoptic.json``, ``captions.json``)
and its pictures in ``images`` or beside the json; the official one with ``annotations/instances_train2017.json``, ``train2017`` and
``val2017``; ``train.json`` and ``val.json`` beside ``images``; or one json as the path. Objects come from instances, else detection,
else any file with boxes, else panoptic; captions from the captions file that belongs to the same part. Key points are read only as
boxes, and only if ``data.annotations`` names their file; what it names is read instead of all this.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mae_vlm.data.problems import Problems
from mae_vlm.data.sources.base import Format, Joined, Place, Source
from mae_vlm.data.sources.parts.annotated import Annotated, Captions
from mae_vlm.data.sources.parts.coco_file import UNKNOWN, CocoFile
from mae_vlm.data.sources.parts.coco_instances import Instances
from mae_vlm.data.sources.parts.coco_layout import Choice, choose, look, picture_folder
from mae_vlm.data.sources.parts.panoptic import Panoptic


class Sentences:
    """Gathers the captions of a file while it is read."""

    def __init__(self, file: Path, problems: Problems) -> None:
        self.file, self.problems = file, problems
        self._found: list[tuple[int, Any, str]] = []

    def annotate(self, slot: int, annotation: dict[str, Any], start: int, end: int) -> None:
        text = annotation.get("caption")
        if isinstance(text, str) and text.strip():
            self._found.append((slot, annotation.get("id"), text.strip()))
        else:
            self.problems.add("empty caption", self.file, annotation.get("id"), f"{text!r}")

    def finish(self, listed: CocoFile, names: list[str]) -> Captions | None:
        """The captions of the pictures ``names``, which may be those of another file; None where it has none of them."""
        rows, place = listed.rows, {name: number for number, name in enumerate(names)}
        texts: list[list[str]] = [[] for _ in names]
        for slot, id, text in self._found:
            row = int(rows[slot])
            if row >= 0 and listed.names[row] in place:
                texts[place[listed.names[row]]].append(text)
            elif row == UNKNOWN:
                self.problems.add("annotation of an unknown picture", self.file, id, f"picture {listed.ids()[slot]}")
        return Captions(texts) if any(texts) else None


def _claims(place: Place) -> bool:
    return any(look(place, root) for root in place.roots)


def _open(place: Place) -> dict[str, Source]:
    if len(place.roots) > 1:
        return {"all": Joined([_open(place.at(root))["all"] for root in place.roots])}
    parts: dict[str, Source] = {}
    for split, choice in choose(place, look(place, place.root)).items():
        source = _part(place, choice, needed=split in ("all", "train"))
        if source is not None:
            parts[split] = source
            place = replace(place, object_classes=place.object_classes or source.object_classes)
    return parts


def _part(place: Place, choice: Choice, needed: bool) -> Source | None:
    """The pictures of one part; None where not one of them is there and the part is not ``needed``: it was not downloaded."""
    objects = choice.objects or choice.captions
    assert objects is not None
    reader = _READERS[objects.kind](objects.file, place.problems)
    listed = CocoFile(objects.file, place.problems, reader.annotate)
    folder = picture_folder(place, objects.file, listed.names, needed)
    if folder is None:
        return None
    listed.leave_out_missing(folder)
    if isinstance(reader, Sentences):
        return Annotated(folder, listed.names, None, captions=reader.finish(listed, listed.names))
    classes, numbers = listed.numbers(place.object_classes)
    found, pixels = reader.finish(listed, classes, numbers)
    captions = None
    if choice.captions:
        sentences = Sentences(choice.captions.file, place.problems)
        captions = sentences.finish(CocoFile(choice.captions.file, place.problems, sentences.annotate), listed.names)
    source = Annotated(folder, listed.names, classes, found, captions, pixels)
    source.object_ids, source.stuff = listed.own_ids(classes), listed.stuff(classes)
    return source


_READERS: dict[str, type[Instances | Panoptic | Sentences]] = {
    "instances": Instances,
    "detection": Instances,
    "boxes": Instances,
    "keypoints": Instances,
    "panoptic": Panoptic,
    "captions": Sentences,
}
FORMAT = Format("coco", _claims, _open)
