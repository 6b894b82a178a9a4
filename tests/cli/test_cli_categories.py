"""A collection's own category numbers and its stuff: from the annotations through a checkpoint into predict's files."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny_runs import ENCODER, MACHINE, REPOSITORY, in_process

from mae_vlm.callbacks.predicted_panoptic import FILE

KINDS = {90: "sky", 4: "cat"}
DATA = ["--data.image_size", "32", "--data.batch_size", "2", "--data.val_fraction", "0", "--probes.pictures", "0"]
HEAD = ["--model.heads.masks.queries", "4", "--model.heads.masks.last", "1", "--model.heads.masks.points", "16"]
QUIET = ["--pictures.count", "1", "--trainer.max_steps", "1"]


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """Two pictures, the upper part sky, of which there are two segments, a cat below."""
    root, map_HW = tmp_path_factory.mktemp("panoptic"), np.full((20, 24), 300)
    map_HW[:10, :12], map_HW[:10, 12:] = 5, 70_000
    segments = [(5, 90, [0, 0, 12, 10]), (70_000, 90, [12, 0, 12, 10]), (300, 4, [0, 10, 24, 10])]
    told = [{"id": id, "category_id": kind, "bbox": box, "area": box[2] * box[3], "iscrowd": 0} for id, kind, box in segments]
    annotations = [{"image_id": number, "file_name": f"{number}.png", "segments_info": told} for number in (1, 2)]
    images = [{"id": number, "file_name": f"{number}.png", "height": 20, "width": 24} for number in (1, 2)]
    kinds = [{"id": id, "name": name, "isthing": int(name == "cat")} for id, name in KINDS.items()]
    (root / "panoptic.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": kinds}))
    colours = np.stack([map_HW >> shift & 255 for shift in (0, 8, 16)], -1).astype(np.uint8)
    for folder in ("images", "panoptic"):
        (root / folder).mkdir()
        for number in (1, 2):
            Image.fromarray(colours).save(root / folder / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def trained(collection, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    config = ["--config", REPOSITORY / "configs" / "finetune" / "quick_masks.yaml", "--model.heads.masks.task", "panoptic"]
    words = [*config, *MACHINE, *DATA, *ENCODER, *HEAD, *QUIET, "--model.heads.masks.score", "0", "--model.heads.masks.overlap", "0"]
    assert in_process("fit", *words, "--data.path", collection, "--trainer.default_root_dir", root) == 0
    return root / "quick_masks" / "version_0"


def test_a_panoptic_head_knows_stuff_and_numbers_from_the_annotations(trained):
    options = yaml.safe_load((trained / "config.yaml").read_text())["model"]["init_args"]["heads"]["masks"]["init_args"]
    assert (options["classes"], options["ids"], options["stuff"]) == (["sky", "cat"], [90, 4], ["sky"])


def test_predict_writes_the_collections_own_numbers_from_a_checkpoint_alone(trained, collection, tmp_path):
    lone = tmp_path / "elsewhere" / "lone.ckpt"
    lone.parent.mkdir()
    shutil.copy(trained / "checkpoints" / "last.ckpt", lone)
    words = ["--ckpt_path", lone, "--data.path", collection / "images", "--out", tmp_path / "out", "--data.num_workers", "0"]
    assert in_process("predict", *words) == 0
    told = json.loads((tmp_path / "out" / FILE).read_text())
    assert told["categories"] == [{"id": 90, "name": "sky"}, {"id": 4, "name": "cat"}]
    numbers = {segment["category_id"] for one in told["annotations"] for segment in one["segments_info"]}
    assert numbers and numbers <= {90, 4}
