"""Boxes for regions from a detector that a run of ours has learned.

Letters: B pictures, C channels, H, W pixels, O objects of a picture.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mae_vlm.convert import native
from mae_vlm.data.targets import BOXES
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.regions import Detector
from mae_vlm.encoders.towers import Towers
from mae_vlm.heads.base import Head
from mae_vlm.heads.mask_rcnn import MaskRcnn
from mae_vlm.types import Batch, Frame, Target


class OfRun(Detector):
    """What the detector of a fine-tuned run finds in each batch, seen at the size that it was trained with. It must stay where it is:
    checkpoints hold its path, not its weights.

    Args:
        run: a run folder or checkpoint, with a head that finds boxes.
        head: its name, where the run has several such heads.
        score: boxes of a lower score are left out.

    Raises:
        ValueError: no such run, no head that finds boxes, several and none named, or a score out of range.
    """

    def __init__(self, run: str, head: str | None = None, score: float = 0.2) -> None:
        if not 0 <= score < 1:
            raise ValueError(f"score {score} of the regions' detector given, allowed is 0 or more, below 1")
        self.score = score
        self.towers = Towers(native.read_encoder(run)).requires_grad_(False).eval()
        self.head = _read(run, head, self.towers).requires_grad_(False).eval()

    @torch.no_grad()
    def boxes(self, batch: Batch) -> list[Tensor]:
        space, device = self.towers.image.space, batch.images_BCHW.device
        self.towers.to(device)
        self.head.to(device)
        height, width = batch.images_BCHW.shape[-2:]
        with torch.autocast(device.type, enabled=False):
            seen = replace(batch, images_BCHW=_resized(batch.images_BCHW, (space.height, space.width)), real_B=batch.real_B | True)
            whole = Frame(space.height, space.width, 0, 0, space.height, space.width, space.height, space.width)
            seen = replace(seen, targets=[Target(whole) for _ in range(len(batch))])
            found = self.head.predictions(self.head(Features(self.towers, seen)), seen)
        scale_4 = torch.tensor([width / space.width, height / space.height] * 2)
        kept = []
        for one in found:
            assert one.boxes is not None and one.object_scores is not None
            kept.append(one.boxes[one.object_scores >= self.score] * scale_4)
        return kept


def _resized(images_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """At the detector's size, as float from 0 to 1."""
    scale = {torch.uint8: 255.0, torch.uint16: 65535.0}.get(images_BCHW.dtype, 1.0)
    images_BCHW = images_BCHW.float() / scale
    if images_BCHW.shape[-2:] == size:
        return images_BCHW
    return functional.interpolate(images_BCHW, size, mode="bilinear", antialias=True)


def _read(run: str, name: str | None, towers: Towers) -> Head:
    config, state = native.read(run)
    stated: dict[str, Any] = config["model"]["init_args"].get("heads") or {}
    heads = {key: _built(one, towers) for key, one in stated.items() if name is None or key == name}
    finding = {key: head for key, head in heads.items() if BOXES in head.wants}
    if len(finding) != 1:
        told = f"{len(finding)} that find boxes{': ' if finding else ''}{', '.join(finding)}; name one" if stated else "no heads"
        raise ValueError(f"the regions' detector {run} has {told}; take a run of a detector")
    ((key, head),) = finding.items()
    part = f"heads.{key}."
    own = {entry.removeprefix(part): value for entry, value in state.items() if entry.startswith(part)}
    missing, unexpected = head.load_state_dict(own, strict=False)
    if missing or unexpected:
        raise ValueError(f"{run}: head {key} does not fit its own config: missing {missing}, unexpected {unexpected}")
    if isinstance(head, MaskRcnn):
        head.masks = False  # nobody looks at them
    return head


def _built(stated: dict[str, Any], towers: Towers) -> Head:
    """A head of ours alone: a config must not name other code."""
    module, _, kind = str(stated["class_path"]).rpartition(".")
    if not module.startswith("mae_vlm.heads."):
        raise ValueError(f"head {stated['class_path']} is not part of mae_vlm")
    built = getattr(import_module(module), kind)(towers, **_parts(stated.get("init_args") or {}))
    assert isinstance(built, Head)
    return built


def _parts(options: dict[str, Any]) -> dict[str, Any]:
    """Options as they are; a part that is built with the towers' sizes is refused, for no detector has one."""
    for name, value in options.items():
        if isinstance(value, dict) and "class_path" in value:
            raise ValueError(f"option {name} of the regions' detector is a class of its own, which cannot be built here; take another run")
    return options
