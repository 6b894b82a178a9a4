"""The training photos of several sets in one folder, without those that look like a validation picture of any of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

from mae_vlm.data.collection import open_collection
from mae_vlm.data.picture import Picture
from mae_vlm.data.sources.base import Place

PHOTOS = (
    "bccd", "camvid", "cifar10", "coco-mini", "coco128-panoptic", "daquar", "dsb2018-nuclei", "flickr8k-sub", "imagenet-sample",
    "tiny-imagenet-20",
)  # fmt: skip


def write_union(sets: dict[str, Path], out: Path) -> Path:
    """The folder ``out/train`` with a PNG of each picture that is kept, by set; what is there already is taken as it is.

    Raises:
        ValueError: ``data_prep check``, which looks for the likenesses, failed.
    """
    if not (out / "done").exists():
        for name, folder in sets.items():
            _write(name, folder, out)
        told = [sys.executable, "-m", "data_prep", "check", str(out), "--out", str(out / "check")]
        done = subprocess.run(told, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"data_prep check {out} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
        pairs = json.loads((out / "check" / "report.json").read_text())["duplicates"]
        barred = {pair[side]["name"] for pair in pairs if pair["leak"] for side in "ab" if pair[side]["part"] == "train"}
        for name in barred:
            (out / "train" / name).unlink()
        (out / "done").write_text(f"{len(barred)} training pictures left out: they look like a validation picture\n")
    return out / "train"


def _write(name: str, folder: Path, out: Path) -> None:
    """The pictures of one set, its train part apart from all others."""
    for part, source in open_collection(Place(str(folder))).parts.items():
        place = out / ("train" if part == "train" else "val") / name
        place.mkdir(parents=True, exist_ok=True)
        for number in range(len(source)):
            pixels_CHW = Picture(source[number].image).pixels()
            Image.fromarray(pixels_CHW[:3].permute(1, 2, 0).numpy()).save(place / f"{part}_{number:06}.png", compress_level=1)
