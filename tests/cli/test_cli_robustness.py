"""What a trained classifier is worth on spoilt pictures, through the command line."""

from __future__ import annotations

import csv
import hashlib
import shutil

import pytest
import torch
from tiny_runs import DATA, ENCODER, MACHINE, REPOSITORY, TINY, curve, in_process

CONFIG = ["--config", REPOSITORY / "configs" / "finetune" / "quick_classify.yaml"]
QUIET = ["--probes.pictures", "0"]
FILES = ["pictures.png", "robustness.csv", "robustness.md", "robustness.svg"]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    root = tmp_path_factory.mktemp("tuned")
    words = ["--trainer.max_steps", "4", "--trainer.log_every_n_steps", "1", "--trainer.default_root_dir", root]
    assert in_process("fit", *CONFIG, *MACHINE, *DATA, *ENCODER, *QUIET, *words) == 0
    return root / "quick_classify" / "version_0"


def examined(run, *words):
    """The exit code, and the rows of the table."""
    code = in_process("robustness", run, *MACHINE, *words)
    with (run / "robustness" / "robustness.csv").open() as file:
        return code, list(csv.DictReader(file))


def sums(folder):
    return {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def whole(tuned):
    before = sums(tuned)
    code, rows = examined(tuned)
    assert code == 0 and before.items() <= sums(tuned).items(), "the run's own files are as they were"
    return rows


def test_a_run_gets_a_folder_of_table_page_plot_and_pictures(tuned, whole):
    assert sorted(file.name for file in (tuned / "robustness").iterdir()) == FILES
    assert (tuned / "robustness" / "pictures.png").read_bytes().startswith(b"\x89PNG")
    assert f"mae_vlm robustness {tuned}" in (tuned / "robustness" / "robustness.md").read_text()
    kinds = {row["pictures"] for row in whole}
    assert len(kinds) == 17 and {"clean", "gaussian_noise", "occlusion", "patch_shuffle", "pgd"} <= kinds


def test_on_clean_pictures_the_best_checkpoint_is_worth_what_its_training_said(tuned, whole):
    clean = {row["metric"]: float(row["value"]) for row in whole if row["pictures"] == "clean"}
    assert clean["top1"] == pytest.approx(max(curve(tuned, "val/top1").values()), abs=1e-4)


def test_the_same_command_finds_the_same_and_the_screen_tells_it(tuned, whole, capsys):
    assert examined(tuned) == (0, whole)
    said = capsys.readouterr().out
    assert f"checkpoint: {tuned / 'checkpoints' / 'best.ckpt'} (the best" in said
    assert "12 validation pictures" in said and "12 common corruptions" in said and "top1" in said


def test_fewer_pictures_another_folder_and_the_newest_where_no_best_is(tuned, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(tuned, run, ignore=shutil.ignore_patterns("best.ckpt", "robustness"), symlinks=True)
    words = ["--pictures", "4", "--seed", "3", "--out", tmp_path / "out"]
    assert in_process("robustness", run, *MACHINE, *words) == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == FILES
    assert not (run / "robustness").exists()
    said = capsys.readouterr().out
    assert "(the newest; name a .ckpt file for another)" in said and "4 validation pictures" in said


def test_an_interrupted_examination_leaves_no_file(tuned, tmp_path, monkeypatch, capsys):
    from mae_vlm.robustness.examination import Examination

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Examination, "findings", interrupted)
    assert in_process("robustness", tuned, *MACHINE, "--pictures", "2", "--out", tmp_path / "out") == 130
    assert "stopped; nothing is written" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_pretraining_run_is_told_that_it_has_no_head(complaint, tmp_path):
    assert in_process("fit", *TINY, *QUIET, "--trainer.max_steps", "1", "--trainer.default_root_dir", tmp_path) == 0
    run = tmp_path / "default" / "version_0"
    assert f"{run} is a run without a head" in complaint("robustness", run, *MACHINE, code=1)


@pytest.fixture
def pictures(tmp_path):
    """Fifty pictures without labels."""
    from torchvision.io import write_png

    (tmp_path / "pictures").mkdir()
    for number in range(50):
        write_png(torch.full((3, 32, 32), 5 * number, dtype=torch.uint8), str(tmp_path / "pictures" / f"{number}.png"))
    return tmp_path / "pictures"


def test_pictures_without_labels_are_told(complaint, tuned, pictures):
    assert "has no labels to learn" in complaint("robustness", tuned, *MACHINE, "--data.path", pictures, code=1)


def test_no_pictures_to_validate_with_are_told(complaint, tuned, monkeypatch):
    from mae_vlm.data.module import Data

    monkeypatch.setattr(Data, "val_dataloader", lambda self: [])
    assert "there are no validation pictures" in complaint("robustness", tuned, *MACHINE, code=1)


@pytest.mark.parametrize(
    "words, code, told",
    [
        ([], 2, "the following arguments are required: run"),
        (["nowhere"], 1, "nowhere: no checkpoint there"),
        (["RUN", "--pictures", "0"], 2, "--pictures 0 given, allowed is 1 or more"),
        (["RUN", "--pictures", "many"], 2, "invalid int value: 'many'"),
        (["RUN", "--out", "FILE"], 1, "is not a folder that you may write to; set --out"),
        (["RUN", "--strength", "3"], 2, "no option --strength"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(complaint, tuned, tmp_path, words, code, told):
    (tmp_path / "file").write_text("")
    named = {"RUN": tuned, "FILE": tmp_path / "file"}
    assert told in complaint("robustness", *(named.get(word, word) for word in words), code=code)


def test_help_is_at_hand(capsys):
    assert in_process("robustness", "--help") == 0
    assert "python -m mae_vlm robustness RUN [--pictures N]" in capsys.readouterr().out
