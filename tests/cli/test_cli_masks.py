"""Masks of objects learned through the command line, from generated scenes."""

from __future__ import annotations

import csv
import shutil

import pytest
import yaml
from tiny_runs import ENCODER, MACHINE, REPOSITORY, content, curve, differing_weights, in_process

CONFIG = ["--config", REPOSITORY / "configs" / "finetune" / "quick_masks.yaml"]
DATA = ["--data.scenes", "32", "--data.val_scenes", "5", "--data.image_size", "32", "--data.batch_size", "8"]
HEAD = ["--model.heads.masks.queries", "6", "--model.heads.masks.last", "2", "--model.heads.masks.points", "32"]
SMALL = [*CONFIG, *MACHINE, *DATA, *ENCODER, *HEAD, "--probes.pictures", "0", "--trainer.log_every_n_steps", "1"]
LENGTH = ["--trainer.max_steps", "6", "--checkpoint.keep_every", "3"]
TAGS = {"val/loss", "val/masks/class", "val/masks/mask", "val/masks/dice"}
SHAPES = ["circle", "square", "triangle", "star", "ring", "cross", "diamond"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("masks")
    assert in_process("fit", *SMALL, *LENGTH, "--trainer.default_root_dir", root) == 0
    return root / "quick_masks" / "version_0"


def test_a_run_leaves_curves_a_table_pictures_and_its_best(trained):
    assert all(curve(trained, tag) for tag in TAGS | {"val/mask_map", "val/mask_map50", "train/masks/class", "train/masks/dice"})
    with (trained / "tables" / "classes.csv").open() as file:
        assert [row["class"] for row in csv.DictReader(file)] == SHAPES
    assert list((trained / "pictures").glob("masks_*.png"))
    assert content(trained, "best")["global_step"] <= 6


def test_a_run_that_was_cut_off_in_the_midst_of_annealing_ends_bit_equal(trained, tmp_path):
    run = tmp_path / "quick_masks" / "version_0"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(trained / "checkpoints" / "step_00000003.ckpt", run / "checkpoints")
    assert in_process("fit", *SMALL, *LENGTH, "--ckpt_path", "last", "--trainer.default_root_dir", tmp_path) == 0
    assert differing_weights(trained, run) == []


@pytest.mark.parametrize("task, best, classes", [("semantic", "miou", ["background", *SHAPES]), ("panoptic", "pq", SHAPES)])
def test_each_task_takes_its_classes_and_has_its_measure(tmp_path, task, best, classes):
    words = [*SMALL, "--model.heads.masks.task", task, "--trainer.max_steps", "1", "--trainer.default_root_dir", tmp_path]
    assert in_process("fit", *words) == 0
    run = tmp_path / "quick_masks" / "version_0"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["init_args"]["heads"]["masks"]["init_args"]["classes"] == classes
    assert 0 <= curve(run, f"val/{best}")[0] <= 1
