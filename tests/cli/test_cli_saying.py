"""Answers and captions through the command line: from a run with words, and from scratch."""

from __future__ import annotations

import csv
import json

import pytest
import yaml
from captioned import vocabulary_file
from tiny_runs import MACHINE, REPOSITORY, content, curve, in_process

DATA = ["--data.scenes", "48", "--data.val_scenes", "12", "--data.image_size", "32", "--data.batch_size", "12"]  # 4 steps an epoch
SIZES = ["--model.encoder.width", "32", "--model.encoder.depth", "1", "--model.encoder.heads", "2"]
WORDS = ["--model.text.width", "32", "--model.text.depth", "1", "--model.text.length", "20", "--model.fusion.depth", "1"]
QUIET = ["--probes.pictures", "0", "--pictures.count", "2", "--trainer.log_every_n_steps", "1"]
BASIS = [*MACHINE, *DATA, *QUIET, "--trainer.max_steps", "4"]
PART = "mae_vlm.objectives"
OBJECTIVES = ["--model.objectives.caption", f"{PART}.caption.Caption", "--model.objectives.answers", f"{PART}.answers.Answers"]
OBJECTIVES += ["--model.objectives.alignment", f"{PART}.alignment.Alignment", "--model.objectives.pixels.width", "16"]
QUICK = ["--model.heads.caption.longest", "8"]
VALIDATION = {
    "answer": {"val/vqa_accuracy", "val/exact_match", "val/exact_match_open"},
    "caption": {"val/cider", "val/bleu4", "val/rouge_l"},
}
TERMS = {"answer": {"answer/cross_entropy"}, "caption": {"caption/cross_entropy", "caption/accuracy"}}


def config(task: str) -> list[str]:
    return ["--config", str(REPOSITORY / "configs" / "finetune" / f"quick_{task}.yaml"), *(QUICK if task == "caption" else [])]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    root = tmp_path_factory.mktemp("words")
    house = ["--config", REPOSITORY / "configs" / "pretrain" / "scenes_vision_language.yaml", *BASIS, *SIZES, *WORDS, *OBJECTIVES]
    assert in_process("fit", *house, "--name", "words", "--trainer.default_root_dir", root) == 0
    return root / "words" / "version_0"


@pytest.fixture(scope="module")
def tuned(pretrained, tmp_path_factory):
    """One run of each head, from the run's towers."""
    root = tmp_path_factory.mktemp("tuned")
    start = ["--model.text", "null", "--model.fusion", "null", "--model.weights", pretrained, "--trainer.default_root_dir", root]
    for task in VALIDATION:
        assert in_process("fit", *config(task), *BASIS, *start) == 0
    return {task: root / f"quick_{task}" / "version_0" for task in VALIDATION}


def test_the_objectives_train_beside_all_others_and_the_answers_are_found_in_the_data(pretrained):
    for tag in ("caption/cross_entropy", "caption/accuracy", "answers/binary", "alignment/distance", "matching/cross_entropy"):
        assert len(curve(pretrained, f"train/{tag}")) == 4 and curve(pretrained, f"val/{tag}"), tag
    assert curve(pretrained, "val/answers/vqa_accuracy") and curve(pretrained, "val/answers/exact_match_open")
    options = yaml.safe_load((pretrained / "config.yaml").read_text())["model"]["init_args"]["objectives"]["answers"]["init_args"]
    assert {"yes", "no", "two"} <= set(options["classes"]) and len(options["classes"]) < 25


@pytest.mark.parametrize("task", VALIDATION)
def test_a_head_starts_from_the_towers_of_a_run_and_tells_its_numbers(tuned, pretrained, task):
    theirs, ours = content(pretrained)["state_dict"], content(tuned[task])["state_dict"]
    words = [name for name in theirs if name.startswith(("towers.text", "towers.fusion"))]
    moved = [(ours[name] - theirs[name]).abs().max().item() for name in words]
    assert len(words) > 30 and 0 < max(moved) < 0.05, "four small steps away"
    for tag in VALIDATION[task]:
        assert all(0 <= value <= 10 for value in curve(tuned[task], tag).values()) and curve(tuned[task], tag), tag
    for tag in TERMS[task]:
        assert len(curve(tuned[task], f"train/{tag}")) == 4 and curve(tuned[task], f"val/{tag}"), tag
    assert list((tuned[task] / "pictures").glob(f"{task}s_*.png")) and (tuned[task] / "checkpoints" / "best.ckpt").exists()


@pytest.mark.parametrize("task", VALIDATION)
def test_a_head_trains_from_scratch_blind_too(task, tmp_path):
    words = [*config(task), *BASIS, *SIZES, *WORDS, f"--model.heads.{task}.picture", "false", "--trainer.default_root_dir", tmp_path]
    assert in_process("fit", *words) == 0
    assert curve(tmp_path / f"quick_{task}" / "version_0", sorted(VALIDATION[task])[0])


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Three pictures with two questions, one, and none, whose answers nobody tells."""
    import torch
    from torchvision.io import write_png

    folder = tmp_path_factory.mktemp("asked")
    for number in range(3):
        write_png(torch.full((3, 40, 40), 80 * number, dtype=torch.uint8), str(folder / f"{number}.png"))
    asked = [("0.png", "what shape is red?"), ("0.png", "how many shapes are there?"), ("1.png", "is it red?")]
    rows = [{"image": name, "question": text} for name, text in asked]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def table(place):
    with (place / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_predict_writes_an_answer_to_every_question(tuned, questions, tmp_path):
    words = ["predict", *MACHINE, "--ckpt_path", tuned["answer"], "--data.path", questions / "questions.jsonl", "--data.format", "qa"]
    assert in_process(*words, "--out", tmp_path, "--draw", "true") == 0
    rows = table(tmp_path)
    assert sorted((row["id"], row["question"]) for row in rows) == [
        ("0.png", "how many shapes are there?"), ("0.png", "what shape is red?"), ("1.png", "is it red?"),
    ]  # fmt: skip
    assert list(rows[0]) == ["id", "question", "answer", "score"] and all(row["answer"] and 0 < float(row["score"]) < 1 for row in rows)
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 2


def test_predict_writes_a_caption_of_every_picture(tuned, questions, tmp_path):
    words = ["predict", *MACHINE, "--ckpt_path", tuned["caption"], "--data.path", questions, "--data.format", "folder"]
    assert in_process(*words, "--out", tmp_path) == 0
    rows = table(tmp_path)
    assert sorted(row["id"] for row in rows) == ["0.png", "1.png", "2.png"] and list(rows[0]) == ["id", "caption", "score"]
    assert all(row["caption"] and 0 < float(row["score"]) < 1 for row in rows)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["predictions.csv"]


LACKS = [("answer", "have 0 answers given 1 times or more"), ("caption", "no captions to learn a vocabulary from")]


@pytest.mark.parametrize("task, lacks", LACKS)
def test_data_without_words_is_told_in_one_line(task, lacks, questions, tmp_path, complaint):
    words = [*config(task), *MACHINE, "--data.path", questions, "--data.format", "folder", "--trainer.default_root_dir", tmp_path]
    words += ["--model.text.vocabulary", vocabulary_file(tmp_path)] if task == "answer" else []
    assert lacks in complaint("fit", *words)
