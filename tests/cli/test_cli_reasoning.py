"""Statements about pairs of pictures and multiple choice through the command line."""

from __future__ import annotations

import csv
import json

import pytest
from PIL import Image
from tiny_runs import MACHINE, REPOSITORY, content, curve, in_process

SIZES = ["--model.text.width", "32", "--model.text.depth", "1"]
BASIS = [*MACHINE, *SIZES, "--data.batch_size", "12", "--probes.pictures", "0", "--pictures.count", "2", "--trainer.max_steps", "4"]
METRICS = {"pair": {"accuracy"}, "choice": {"accuracy", "rationale_accuracy", "both_accuracy"}}
SCENES = {"pair": "scenes://pairs", "choice": "scenes://choices"}


def config(task):
    return ["--config", str(REPOSITORY / "configs" / "finetune" / f"quick_{task}.yaml")]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """One tiny run of each head on its generated scenes."""
    root = tmp_path_factory.mktemp("reasoning")
    for task, scenes in SCENES.items():
        words = [*config(task), *BASIS, "--trainer.log_every_n_steps", "1", "--data.path", f"{scenes}?train=48&val=12&side=32"]
        assert in_process("fit", *words, "--trainer.default_root_dir", root) == 0
    return {task: root / f"quick_{task}" / "version_0" for task in SCENES}


@pytest.mark.parametrize("task", SCENES)
def test_a_head_trains_from_scratch_and_tells_its_numbers(tuned, task):
    run = tuned[task]
    assert len(curve(run, f"train/{task}/cross_entropy")) == 4 and curve(run, f"val/{task}/cross_entropy")
    for metric in METRICS[task]:
        values = curve(run, f"val/{metric}")
        assert values and all(0 <= value <= 1 for value in values.values()), metric
    assert list((run / "pictures").glob(f"{task}s_*.png")) and (run / "checkpoints" / "best.ckpt").exists()


@pytest.mark.parametrize("task", SCENES)
def test_the_blind_twin_trains_too(task, tmp_path):
    words = [*config(task), *BASIS, "--data.path", f"{SCENES[task]}?train=24&val=4&side=32", f"--model.heads.{task}.picture", "false"]
    assert in_process("fit", *words, "--trainer.default_root_dir", tmp_path) == 0
    assert content(tmp_path / f"quick_{task}" / "version_0")["global_step"] == 4


def write_pictures(folder, names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 36), (20 * number, 90, 30)).save(folder / name)


def test_a_run_judges_the_statements_of_nlvr2s_files(tuned, tmp_path):
    said, links = ["both figures are red", "the left figure is a ring"], {"left_url": "https://a.example/l.jpg", "right_url": "r.jpg"}
    rows = [{"identifier": f"dev-{number}-0-0", "sentence": text, "label": "True"} | links for number, text in enumerate(said)]
    (tmp_path / "dev.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_pictures(tmp_path / "dev", [f"dev-{number}-0-img{side}.png" for number in range(2) for side in (0, 1)])
    out = tmp_path / "out"
    assert in_process("predict", "--ckpt_path", tuned["pair"], "--data.path", tmp_path, "--out", out, "--data.num_workers", "0") == 0
    with (out / "predictions.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [(row["id"], row["question"]) for row in found] == [("dev-0-0-0", said[0]), ("dev-1-0-0", said[1])]
    assert all(row["answer"] in ("true", "false") and 0.5 <= float(row["score"]) <= 1 for row in found)


def test_a_run_chooses_among_the_answers_of_vcrs_files(tuned, tmp_path):
    row = {"img_fn": "a/1.png", "objects": ["person"], "question": ["What", "does", [0], "do", "?"], "answer_choices": [["sit"], ["run"]]}
    (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n")
    write_pictures(tmp_path / "vcr1images", ["a/1.png"])
    out = tmp_path / "out"
    assert in_process("predict", "--ckpt_path", tuned["choice"], "--data.path", tmp_path, "--out", out, "--data.num_workers", "0") == 0
    with (out / "predictions.csv").open() as file:
        (found,) = csv.DictReader(file)
    assert found["question"] == "What does person 1 do?" and found["answer"] in ("sit", "run")


@pytest.mark.parametrize("task, told", [("pair", "has no statements about pairs"), ("choice", "has no questions with candidates")])
def test_data_of_another_kind_is_told_before_the_run(task, told, tmp_path, capsys):
    words = [*config(task), *BASIS, "--data.path", "null", "--data.scenes", "24", "--data.val_scenes", "4", "--data.image_size", "32"]
    assert in_process("fit", *words, "--trainer.default_root_dir", tmp_path) == 1
    assert told in capsys.readouterr().err
