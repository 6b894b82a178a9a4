"""``ablate`` as it is typed: what it prints, writes and returns. With a stand-in for fit; tests/faults has the real one."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

from mae_vlm.ablation import running
from mae_vlm.cli import main
from mae_vlm.commands import ablate

STAND_IN = (sys.executable, str(Path(__file__).with_name("ablated.py")))


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Runs ``ablate WORDS``; gives the exit code, what was printed, and what was complained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(running.Runner.__init__, "__defaults__", (None, STAND_IN))
    monkeypatch.setattr(ablate, "refused", lambda words: None)

    def run(*words):
        capsys.readouterr()
        code = main(["ablate", *words, "--mark=mark", "--trainer.accelerator=cpu"])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_a_table_three_files_and_nothing_done_twice(call, tmp_path):
    code, said, _ = call("--vary", "ratio=0.6,0.7", "--seeds", "2", "--steps", "9")
    assert code == 0 and "4 runs to go, 1 at a time" in said and "[4/4] ratio=0.7 seed 1: finished, probe/linear 0.5100" in said
    out = tmp_path / "runs" / "ablation" / "ratio"
    assert {"ablation.csv", "ablation.md", "ablation.svg"} <= {path.name for path in out.iterdir()}
    with (out / "ablation.csv").open() as file:
        assert [(row["ratio"], row["seed"], row["probe/linear"]) for row in csv.DictReader(file)][:2] == [
            ("0.6", "0", "0.5"),
            ("0.7", "0", "0.5"),
        ]
    before = sorted((path, path.stat().st_mtime_ns) for path in out.rglob("*.json"))
    code, said, _ = call("--vary", "ratio=0.6,0.7", "--seeds", "2", "--steps", "9")
    assert code == 0 and "runs to go" not in said and "no winner" in said
    assert sorted((path, path.stat().st_mtime_ns) for path in out.rglob("*.json")) == before


def test_more_seeds_and_values_are_added_to_what_is_there(call):
    call("--vary", "ratio=0.6,0.7", "--seeds", "1", "--steps", "9")
    code, said, _ = call("--vary", "ratio=0.6,0.7,0.8", "--seeds", "2", "--steps", "9")
    assert code == 0 and "4 runs to go" in said


def test_a_failed_run_makes_the_exit_code_and_is_tried_again(call):
    for _ in range(2):
        code, said, _ = call("--vary", "ratio=0.6,9", "--seeds", "1")
        assert code == 1 and "failed: ratio=9 seed 0: ratio 9 given, allowed is less" in said and "[1/" in said


def test_other_options_in_the_same_folder_are_refused(call):
    call("--vary", "ratio=0.6,0.7", "--seeds", "1", "--steps", "9")
    code, said, complained = call("--vary", "ratio=0.6,0.7", "--seeds", "1", "--steps", "10")
    assert code == 2 and "of other options" in complained and "--out" in complained and complained.count("\n") == 1 and said == ""


def test_two_ablations_do_not_share_a_folder(call, tmp_path):
    with ablate._alone(tmp_path / "out"):
        code, _, complained = call("--vary", "ratio=0.6,0.7", "--seeds", "1", "--out", str(tmp_path / "out"))
    assert code == 2 and "another ablation" in complained and complained.count("\n") == 1
    assert call("--vary", "ratio=0.6,0.7", "--seeds", "1", "--out", str(tmp_path / "out"))[0] == 0


def test_a_refused_option_stops_before_anything_is_written(call, monkeypatch, tmp_path):
    monkeypatch.setattr(ablate, "refused", lambda words: (1, "no option 'ratoi' there; did you mean ratio?"))
    code, _, complained = call("--vary", "ratio=0.6,0.7")
    assert code == 2 and complained == "mae_vlm: error: no option 'ratoi' there; did you mean ratio? (with ratio=0.7)\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words, said",
    [
        (["--seeds", "2"], "required: --vary"),
        (["--vary", "a=1,2", "--seeds", "0"], "whole number from 1 up"),
        (["--vary", "a=1,2", "--steps", "5", "--minutes", "1"], "not allowed with"),
        (["--vary", "a=1,2", "--minutes", "soon"], "number of minutes"),
        (["--vary", "a=1,2", "--by", "val/loss"], "a lower loss is not a better feature"),
        (["--vary", "a=1"], "at least two values"),
        (["--vary", "a=1,2", "--ckpt_path", "last"], "ablate sets itself"),
    ],
)
def test_mistakes_are_told_in_one_line(call, capsys, words, said):
    try:
        code, _, complained = call(*words)
    except SystemExit as end:
        code, complained = end.code, capsys.readouterr().err
    assert code == 2 and said in complained and complained.startswith("mae_vlm: error: ") and complained.count("\n") == 1


def test_torch_is_not_imported():
    import subprocess

    told = "import sys, mae_vlm.commands.ablate; print([name for name in sys.modules if name in ('torch', 'lightning', 'numpy')])"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
