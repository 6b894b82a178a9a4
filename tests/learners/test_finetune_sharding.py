"""Sharded weights change where numbers live in a fine-tuning, not which numbers they are. On two CPU processes."""

from __future__ import annotations

import contextlib
import functools
import io
import shutil

import pytest
import torch
from several_processes import on_processes
from tiny_runs import DATA, ENCODER, MACHINE, REPOSITORY, check_same_losses, content, curve, in_process

STEPS = 6
FSDP = ["--config", REPOSITORY / "configs" / "trainer" / "cpu_two_processes_fsdp.yaml"]
LENGTH = ["--trainer.max_steps", str(STEPS), "--trainer.log_every_n_steps", "1", "--trainer.gradient_clip_val", "0.5", "--name", "run"]
LENGTH += ["--trainer.val_check_interval", "3", "--checkpoint.every_n_steps", "3", "--checkpoint.keep_last", "2", "--probes.pictures", "0"]
SMALL = [*MACHINE, *DATA, *ENCODER, *LENGTH, "--data.val_scenes", "13"]
RCNN = ["--model.heads.detect", "mae_vlm.heads.mask_rcnn.MaskRcnn", "--model.heads.detect.width", "16"]
RCNN += ["--model.heads.detect.hidden", "32", "--model.heads.detect.proposals", "40"]
MASKS = ["--model.heads.masks.points", "64", "--model.heads.masks.queries", "6", "--model.freeze", "1"]
CASES = {
    "detect": (RCNN, {"val/box_map", "val/mask_map", "val/detect/masks"}),
    "masks": (MASKS, {"val/mask_map", "val/masks/dice"}),
    "classify": (["--model.lora.rank", "2"], {"val/top1"}),
}


def words_of(case: str) -> list:
    return ["--config", REPOSITORY / "configs" / "finetune" / f"quick_{case}.yaml", *SMALL, *CASES[case][0]]


def fit(root, *words):
    """In each of the processes: the real command."""
    assert in_process("fit", *words, "--trainer.default_root_dir", root) == 0


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    root = tmp_path_factory.mktemp("sharded")

    @functools.cache
    def of(case):
        on_processes(2, fit, str(root / case), *words_of(case), *FSDP)
        return root / case / "run" / "version_0"

    return of


@pytest.mark.parametrize("case", CASES, ids=["detect", "masks, half frozen", "classify, by adapters"])
def test_sharded_processes_have_the_losses_and_metrics_of_one_and_its_checkpoint(sharded, tmp_path, case):
    fit(tmp_path, *words_of(case))
    alone, run = tmp_path / "run" / "version_0", sharded(case)
    check_same_losses(run, alone, STEPS)
    for tag in {"val/loss", "optimizer/grad_norm"} | CASES[case][1]:
        assert curve(alone, tag) and curve(run, tag) == pytest.approx(curve(alone, tag), abs=1e-3, rel=1e-3), tag
    ours, theirs = content(run)["state_dict"], content(alone)["state_dict"]
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-3, rtol=0)


def test_one_process_goes_on_and_predicts_from_their_checkpoint(sharded, tmp_path):
    from torchvision.io import write_png

    source, run = sharded("detect"), tmp_path / "run" / "version_0"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(source / "checkpoints" / "step_00000003.ckpt", run / "checkpoints")
    fit(tmp_path, *words_of("detect"), "--ckpt_path", "last")
    ours, theirs = curve(run, "train/loss"), curve(source, "train/loss")
    assert [ours[step] for step in (3, 4, 5)] == pytest.approx([theirs[step] for step in (3, 4, 5)], abs=1e-4)
    (tmp_path / "pictures").mkdir()
    write_png(torch.zeros(3, 40, 40, dtype=torch.uint8), str(tmp_path / "pictures" / "one.png"))
    words = ["--ckpt_path", source, "--data.path", tmp_path / "pictures", "--out", tmp_path / "out"]
    assert in_process("predict", *MACHINE, *words) == 0 and (tmp_path / "out" / "detections.json").is_file()


def averaging(root) -> tuple[int, str]:
    with contextlib.redirect_stderr(io.StringIO()) as said:
        code = in_process("fit", *words_of("detect"), *FSDP, "--ema.decay", "0.9", "--trainer.default_root_dir", root)
    return code, said.getvalue()


def test_averaging_over_shards_is_refused_in_a_line(tmp_path):
    (first, said), (second, _) = on_processes(2, averaging, str(tmp_path))
    assert first and second
    (line,) = [line for line in said.splitlines() if "mae_vlm: error" in line]
    assert "ema.decay needs the whole weights on every process" in line
