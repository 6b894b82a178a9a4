"""What ``predict``'s files score against the original annotations, and what these score themselves at a head's resolution.

Nothing here is the package's own: masks and average precision are pycocotools', panoptic quality and IoU are written out below, and the
truth is brought to a head's cells and back by plain interpolation. Letters: N maps, H, W pixels of a picture, L classes.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as run_length
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torch.nn import functional

Numbers = NDArray[Any]
Segments = dict[int, int]  # the class of each number in a map
_SHARP, STEPS = 8.0, 60  # of the logits that shares begin as; of the way to the best ones


class Canvas(NamedTuple):
    """A prepared picture: its height and width, and the pixels of a cell's side of the head's answer (0: it answers in real numbers)."""

    height: int
    width: int
    cell: int


# -- there and back


def through(maps_NHW: Tensor, canvas: Canvas, steps: int = STEPS) -> Tensor:
    """What bool maps of a picture's own size are at best through the cells of the canvas that it lies on: above 0 where they are true.

    Logits of the cells, drawn out to the picture by interpolation, as a head's are: at first the share of the cell that is true, then
    moved ``steps`` times down the cross-entropy of the pixels, a convex problem. The shares alone (0 steps) score less than what a head
    can learn.
    """
    size = (int(maps_NHW.shape[1]), int(maps_NHW.shape[2]))
    scale = min(canvas.height / size[0], canvas.width / size[1])
    rows, columns = round(size[0] * scale), round(size[1] * scale)
    small = functional.interpolate(maps_NHW[None].float(), size=(rows, columns), mode="area")
    whole = functional.pad(small, (0, canvas.width - columns, 0, canvas.height - rows))
    cells = (_SHARP * (functional.avg_pool2d(whole, canvas.cell) - 0.5)).requires_grad_()
    rule = torch.optim.Adam([cells], lr=0.5)
    for _ in range(steps):
        drawn = _drawn(cells, canvas, (rows, columns), size)
        torch.autograd.backward(functional.binary_cross_entropy_with_logits(drawn, maps_NHW[None].float(), reduction="sum"))
        rule.step()
        rule.zero_grad()
    return _drawn(cells.detach(), canvas, (rows, columns), size)[0]


def _drawn(cells: Tensor, canvas: Canvas, part: tuple[int, int], size: tuple[int, int]) -> Tensor:
    wide = functional.interpolate(cells, size=canvas[:2], mode="bilinear")
    return functional.interpolate(wide[..., : part[0], : part[1]], size=size, mode="bilinear")


# -- boxes and masks


def precision(truth: Path, found: list[dict[str, Any]], kind: str) -> dict[str, float]:
    """COCO's ``AP``, ``AP50`` and ``AP75`` of ``bbox`` or ``segm`` by pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        true = COCO(str(truth))
        judge = COCOeval(true, true.loadRes(found), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return {name: float(judge.stats[place]) for place, name in enumerate(("AP", "AP50", "AP75"))}


def detections(truth: Path, out: Path) -> list[dict[str, Any]]:
    """The objects that ``predict`` wrote into ``out``, under the picture ids of the truth; their class ids are taken as they stand."""
    true, listed = json.loads(truth.read_text()), json.loads((out / "images.json").read_text())
    ids = {image["file_name"]: image["id"] for image in true["images"]}
    of = {image["id"]: ids[image["file_name"]] for image in listed["images"]}
    return [one | {"image_id": of[one["image_id"]]} for one in json.loads((out / "detections.json").read_text())]


def drawn_again(truth: Path, canvas: Canvas, kind: str, steps: int = STEPS) -> list[dict[str, Any]]:
    """The true objects as a head with these cells would draw them at best: all with the score 1."""
    with contextlib.redirect_stdout(io.StringIO()):
        true = COCO(str(truth))
    found = []
    for id in true.getImgIds():
        own = [one for one in true.imgToAnns[id] if not one.get("iscrowd")]
        shapes: list[dict[str, Any]] = [{"bbox": one["bbox"]} for one in own]
        if kind == "segm" and own:
            again_NHW = through(torch.from_numpy(np.stack([true.annToMask(one) for one in own])), canvas, steps) > 0
            shapes = [{"segmentation": run_length.encode(np.asfortranarray(mask_HW.numpy().astype(np.uint8)))} for mask_HW in again_NHW]
        told = [{"image_id": id, "category_id": one["category_id"], "score": 1.0} for one in own]
        found += [one | shape for one, shape in zip(told, shapes, strict=True)]
    return found


# -- panoptic maps


def panoptic_quality(truth: Path, answers: dict[str, tuple[Numbers, Segments]]) -> dict[str, float]:
    """``PQ``, ``SQ`` and ``RQ`` (Kirillov et al. 2019, arXiv 1801.00868): means over the classes that occur in truth or answer.

    ``answers`` are a map of segment numbers and their classes for each picture, by file name.
    """
    sums: dict[int, Numbers] = {}  # by class: the matches' IoU, their number, answers without a match, truths without one
    for name, map_HW, segments in true_maps(truth):
        told_HW, told = answers[name]
        crowds = {number for number, info in segments.items() if info.get("iscrowd")}
        for kind, values in _matches(map_HW, {number: info["category_id"] for number, info in segments.items()}, told_HW, told, crowds):
            sums[kind] = sums.get(kind, np.zeros(4)) + values
    rows = np.array(list(sums.values()))
    found = rows[:, 1] + rows[:, 2] / 2 + rows[:, 3] / 2
    rows, found = rows[found > 0], found[found > 0]
    recognised = rows[:, 1] / found
    segmented = rows[:, 0] / np.maximum(rows[:, 1], 1)
    return {"PQ": float((rows[:, 0] / found).mean()), "SQ": float(segmented.mean()), "RQ": float(recognised.mean())}


def true_maps(truth: Path) -> list[tuple[str, Numbers, dict[int, dict[str, Any]]]]:
    """Of each picture its file name, its map of segment numbers, 0 where nothing is known, and what is told of each segment."""
    told = json.loads(truth.read_text())
    names = {image["id"]: image["file_name"] for image in told["images"]}
    found = []
    for one in told["annotations"]:
        map_HW = _segment_numbers(truth.with_suffix("") / one["file_name"])
        found.append((names[one["image_id"]], map_HW, {info["id"]: info for info in one["segments_info"]}))
    return found


def panoptic_answers(out: Path) -> dict[str, tuple[Numbers, Segments]]:
    """What ``predict`` wrote into ``out``."""
    told = json.loads((out / "panoptic.json").read_text())
    names = {image["id"]: image["file_name"] for image in told["images"]}
    return {
        names[one["image_id"]]: (
            _segment_numbers(out / "panoptic" / one["file_name"]),
            {info["id"]: info["category_id"] for info in one["segments_info"]},
        )
        for one in told["annotations"]
    }


def panoptic_again(truth: Path, canvas: Canvas, steps: int = STEPS) -> dict[str, tuple[Numbers, Segments]]:
    """The true segments as a head with these cells would draw them at best; pixels go to the highest logit above 0."""
    found = {}
    for name, map_HW, segments in true_maps(truth):
        kept = [number for number, info in segments.items() if not info.get("iscrowd")]
        logits_NHW = through(torch.from_numpy(np.stack([map_HW == number for number in kept])), canvas, steps)
        best = logits_NHW.max(0)
        again_HW = torch.tensor(kept)[best.indices].masked_fill(best.values < 0, 0)
        found[name] = (again_HW.numpy(), {number: segments[number]["category_id"] for number in kept})
    return found


def _matches(true_HW: Numbers, true: Segments, told_HW: Numbers, told: Segments, crowds: set[int]) -> list[tuple[int, Numbers]]:
    """Of one picture (class, [IoU, matched, wrong, missed]): a pair of one class above IoU 0.5 is a match, as there can be one alone."""
    pairs, counts = np.unique(np.stack([true_HW.ravel(), told_HW.ravel()]), axis=1, return_counts=True)
    both = {(int(a), int(b)): int(count) for (a, b), count in zip(pairs.T, counts, strict=True)}
    true_area = {number: sum(count for (a, _), count in both.items() if a == number) for number in true}
    told_area = {number: sum(count for (_, b), count in both.items() if b == number) for number in told}
    found: list[tuple[int, Numbers]] = []
    matched_true, matched_told = set(), set()
    for (a, b), inner in both.items():
        if a in true and a not in crowds and b in told and true[a] == told[b]:
            iou = inner / (true_area[a] + told_area[b] - inner - both.get((0, b), 0))
            if iou > 0.5:
                found.append((true[a], np.array([iou, 1, 0, 0])))
                matched_true.add(a)
                matched_told.add(b)
    found += [(true[a], np.array([0, 0, 0, 1])) for a in true if a not in matched_true | crowds]
    for b in told:
        unknown = both.get((0, b), 0) + sum(both.get((a, b), 0) for a in crowds if true[a] == told[b])
        if b not in matched_told and told_area[b] and unknown <= 0.5 * told_area[b]:
            found.append((told[b], np.array([0, 0, 1, 0])))
    return found


def _segment_numbers(file: Path) -> Numbers:
    colours = np.asarray(Image.open(file).convert("RGB")).astype(np.int64)
    return np.asarray(colours @ np.array([1, 256, 65536]))


# -- a class for every pixel


def mean_iou(masks: Path, answers: dict[str, Numbers], unknown: int) -> dict[str, float]:
    """``mIoU`` over the classes that occur in truth or answer, pixels of the class ``unknown`` left out."""
    inner, union = np.zeros(256), np.zeros(256)
    for name, told_HW in answers.items():
        true_HW = np.asarray(Image.open(masks / f"{name}.png"))
        known_HW = true_HW != unknown
        for kind in range(unknown):
            true, told = (true_HW == kind) & known_HW, (told_HW == kind) & known_HW
            inner[kind] += (true & told).sum()
            union[kind] += (true | told).sum()
    seen = union > 0
    return {"mIoU": float((inner[seen] / union[seen]).mean())}


def semantic_answers(out: Path, masks: Path) -> dict[str, Numbers]:
    """What ``predict`` wrote into ``out/maps``, by the stems of the masks."""
    return {file.stem: np.asarray(Image.open(out / "maps" / file.name)) for file in sorted(masks.glob("*.png"))}


def semantic_again(masks: Path, canvas: Canvas, unknown: int, steps: int = STEPS) -> dict[str, Numbers]:
    """The true classes as a head with these cells would draw them at best."""
    found = {}
    for file in sorted(masks.glob("*.png")):
        true_HW = torch.from_numpy(np.asarray(Image.open(file)).copy())
        logits_LHW = through(torch.stack([true_HW == kind for kind in range(unknown)]), canvas, steps)
        found[file.stem] = logits_LHW.argmax(0).numpy()
    return found
