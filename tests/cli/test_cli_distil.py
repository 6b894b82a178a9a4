"""From a trained run to a smaller one that has learned from it, through the command line."""

from __future__ import annotations

import shutil

import pytest
import torch
import yaml
from tiny_runs import DATA, DECODER, ENCODER, MACHINE, REPOSITORY, content, curve, differing_weights, in_process

import mae_vlm

CONFIGS = REPOSITORY / "configs"
QUIET = ["--probes.pictures", "0", "--pictures.count", "2"]
LARGER = ["--model.encoder.width", "48", "--model.encoder.depth", "2", "--model.encoder.heads", "2", "--model.encoder.patch", "4"]
LENGTH = [
    "--trainer.max_steps",
    "4",
    "--trainer.log_every_n_steps",
    "1",
    "--trainer.val_check_interval",
    "2",
    "--checkpoint.keep_every",
    "2",
]
ENCODERS = ["--config", CONFIGS / "distil" / "quick_encoder.yaml", *MACHINE, *DATA, *ENCODER, *QUIET]
HEADS = ["--config", CONFIGS / "finetune" / "quick_classify.yaml", *MACHINE, *DATA, *ENCODER, *QUIET]
TEACHER = "--model.objectives.distil.teacher"


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """A pretrained run and a fine-tuned one, whose pictures are normalised otherwise than their students'."""
    root = tmp_path_factory.mktemp("teachers")
    common = [
        *MACHINE,
        *DATA,
        *QUIET,
        *LARGER,
        "--data.mean",
        "[0.4,0.4,0.4]",
        "--trainer.max_steps",
        "2",
        "--trainer.default_root_dir",
        root,
    ]
    assert in_process("fit", *common, *DECODER, "--name", "encoder") == 0
    assert in_process("fit", "--config", CONFIGS / "finetune" / "quick_classify.yaml", *common, "--name", "classify") == 0
    return {name: root / name / "version_0" for name in ("encoder", "classify")}


@pytest.fixture(scope="module")
def students(teachers, tmp_path_factory):
    root = tmp_path_factory.mktemp("students")
    place = ["--trainer.default_root_dir", root, *LENGTH]
    assert in_process("fit", *ENCODERS, *place, TEACHER, teachers["encoder"]) == 0
    assert in_process("fit", *HEADS, *place, "--model.teacher.weights", teachers["classify"]) == 0
    return {"encoder": root / "quick_encoder" / "version_0", "classify": root / "quick_classify" / "version_0"}


def test_the_teacher_is_built_and_filled_as_in_its_run_and_never_moves(teachers, students):
    options = yaml.safe_load((students["encoder"] / "config.yaml").read_text())["model"]["init_args"]
    teacher = options["objectives"]["distil"]["init_args"]["encoder"]["init_args"]
    assert (teacher["width"], teacher["patch"], teacher["mean"]) == (48, 4, [0.4, 0.4, 0.4]) and options["encoder"]["init_args"][
        "width"
    ] == 32
    theirs = content(teachers["encoder"])["state_dict"]
    for checkpoint in ("step_00000002", "last"):
        ours = content(students["encoder"], checkpoint)["state_dict"]
        taught = {name: value for name, value in ours.items() if ".teacher." in name}
        assert len(taught) > 20
        for name, value in taught.items():
            assert torch.equal(value, theirs[name.replace("objectives.distil.teacher.", "towers.image.")]), name


def test_a_distilling_run_tells_how_near_its_features_are(students):
    for tag in ("val/distil/cosine", "val/distil/other_picture", "val/distil/smooth_l1", "train/distil/smooth_l1", "val/loss"):
        assert curve(students["encoder"], tag), tag
    losses = curve(students["encoder"], "val/loss")
    assert losses[max(losses)] < losses[0]


def test_a_head_learns_from_the_teachers_head(teachers, students):
    assert curve(students["classify"], "train/classify/taught") and curve(students["classify"], "val/classify/taught")
    theirs, ours = content(teachers["classify"])["state_dict"], content(students["classify"])["state_dict"]
    taught = {name: value for name, value in ours.items() if name.startswith("teacher.")}
    assert "teacher.heads.classify.linear.weight" in taught
    for name, value in taught.items():
        assert torch.equal(value, theirs[name.removeprefix("teacher.")]), name
    moments = content(students["classify"])["optimizer_states"][0]["state"]
    assert len(moments) == sum(not name.startswith("teacher.") and "pos_embed" not in name and ".vit.norm." not in name for name in ours)


@pytest.mark.slow
@pytest.mark.parametrize("kind, words", [("encoder", ENCODERS), ("classify", HEADS)])
def test_a_run_that_was_cut_off_ends_bit_equal_also_without_its_teacher(kind, words, teachers, students, tmp_path):
    run = tmp_path / students[kind].parent.name / "version_0"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(students[kind] / "checkpoints" / "step_00000002.ckpt", run / "checkpoints")
    away = teachers[kind].rename(teachers[kind].with_name("away"))
    try:
        assert in_process("fit", *words, *LENGTH, "--ckpt_path", "last", "--trainer.default_root_dir", tmp_path) == 0
    finally:
        away.rename(teachers[kind])
    assert differing_weights(students[kind], run) == []


@torch.no_grad()
def test_load_takes_the_student_alone(students):
    for run in students.values():
        encoder = mae_vlm.load(run).encoder
        assert encoder.width == 32 and sum(weight.numel() for weight in encoder.parameters()) < 60_000
        assert torch.equal(encoder.vit.patch_embed.proj.weight, content(run)["state_dict"]["towers.image.vit.patch_embed.proj.weight"])


def test_print_config_shows_the_teacher_and_reads_nothing(capsys):
    assert in_process("fit", *ENCODERS, TEACHER, "nowhere", "--print_config") == 0
    printed = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["objectives"]["distil"]["init_args"]
    assert (printed["teacher"], printed["encoder"], printed["view"]) == ("nowhere", None, "full")


@pytest.mark.parametrize(
    "words, message",
    [
        ([*ENCODERS], "distil needs a teacher: name a trained run, as --model.objectives.distil.teacher RUN"),
        ([*ENCODERS, TEACHER, "nowhere"], "model.objectives.distil.teacher nowhere: nowhere: no checkpoint there"),
        ([*HEADS, "--model.teacher.temperature", "3"], "a teacher needs a trained run: name one, as --model.teacher.weights RUN"),
        ([*HEADS, "--model.teacher.weights", "nowhere"], "model.teacher.weights nowhere: nowhere: no checkpoint there"),
    ],
)
def test_a_teacher_that_is_not_there_is_told_in_one_line(words, message, complaint, tmp_path):
    assert message in complaint("fit", *words, "--trainer.default_root_dir", tmp_path, code=1)


def test_a_teacher_that_does_not_fit_is_told_in_one_line(teachers, complaint, tmp_path):
    place = ["--trainer.default_root_dir", tmp_path]
    grey = ["--data.channels", "1", "--model.encoder.channels", "1"]
    told = complaint("fit", *ENCODERS, *grey, TEACHER, teachers["encoder"], *place, code=1)
    assert "the teacher takes pictures of 3 channels, the student of 1" in told
    told = complaint("fit", *HEADS, "--model.teacher.weights", teachers["encoder"], *place, code=1)
    assert "its heads are none; one that is a Classify or a Segment, as here, can teach" in told
