"""Several heads on one encoder with declared weights, through the command line."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_runs import ENCODER, MACHINE, REPOSITORY, content, in_process, rows
from torchvision.io import write_png

from mae_vlm.heads.dense import _WEIGHTS

CONFIG = ["--config", REPOSITORY / "configs" / "finetune" / "quick_several.yaml"]
DATA = ["--data.scenes", "16", "--data.val_scenes", "4", "--data.image_size", "32", "--data.batch_size", "8"]
QUIET = ["--probes.pictures", "0", "--pictures.count", "1", "--trainer.log_every_n_steps", "1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("several")
    words = [*CONFIG, *MACHINE, *DATA, *ENCODER, *QUIET, "--trainer.max_steps", "2", "--trainer.default_root_dir", root]
    assert in_process("fit", *words) == 0
    return root / "quick_several" / "version_0"


def test_the_loss_is_the_sum_of_the_heads_by_their_declared_weights(trained):
    told = [row for row in rows(trained) if row["train/loss"]]
    assert len(told) == 2
    for row in told:
        detect = sum(weight * float(row[f"train/detect/{name}"]) for name, weight in _WEIGHTS.items())
        assert float(row["train/loss"]) == pytest.approx(1.0 * detect + 0.5 * float(row["train/segment/cross_entropy"]), rel=1e-5)


def test_each_head_has_its_metrics_and_its_best(trained):
    assert all(row for row in rows(trained) if row["val/detect/box_map"] and row["val/segment/miou"])
    kept = {path.stem for path in (trained / "checkpoints").glob("best_*.ckpt")}
    assert kept == {"best_detect", "best_segment"}
    weights = content(trained)["state_dict"]
    assert {name.split(".")[1] for name in weights if name.startswith("heads.")} == {"detect", "segment"}


def test_predict_writes_the_files_of_each_under_its_name(trained, tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(2):
        pixels = torch.randint(0, 256, (3, 20, 40), generator=torch.Generator().manual_seed(number))
        write_png(pixels.to(torch.uint8), str(tmp_path / "photos" / f"{number}.png"))
    words = ["--ckpt_path", trained, "--data.path", tmp_path / "photos", "--out", tmp_path / "out", "--data.num_workers", "0"]
    assert in_process("predict", *words) == 0
    told = json.loads((tmp_path / "out" / "detect_images.json").read_text())
    assert [(one["file_name"], one["height"], one["width"]) for one in told["images"]] == [("0.png", 20, 40), ("1.png", 20, 40)]
    assert {path.name for path in (tmp_path / "out" / "segment_maps").iterdir()} == {"0.png", "1.png", "classes.csv"}
