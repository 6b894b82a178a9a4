"""Pictures with words through the real command line."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_runs import MACHINE, REPOSITORY, check_same_losses, content, curve, differing_weights, in_new_process, in_process

from mae_vlm import load

CONFIG = ["--config", str(REPOSITORY / "configs" / "pretrain" / "scenes_vision_language.yaml")]
DATA = ["--data.scenes", "48", "--data.val_scenes", "12", "--data.image_size", "32", "--data.batch_size", "12"]  # 4 steps an epoch
SIZES = ["--model.encoder.width", "32", "--model.encoder.depth", "2", "--model.encoder.heads", "2"]
WORDS = ["--model.text.width", "32", "--model.text.depth", "1", "--model.fusion.depth", "1", "--model.fusion.heads", "2"]
SMALL = ["--model.objectives.pixels.width", "16", "--model.objectives.pixels.depth", "1", "--model.objectives.image_text.width", "16"]
QUIET = ["--probes.pictures", "0", "--pictures.count", "2", "--trainer.log_every_n_steps", "1", "--name", "words"]
FLAT = ["--model.optimizer.warmup", "0", "--model.optimizer.floor", "1"]  # a rate that does not depend on the run's length
TINY = [*CONFIG, *MACHINE, *DATA, *SIZES, *WORDS, *SMALL, *QUIET, *FLAT]
LOSSES = ("pixels/masked_mse", "image_text/contrast", "matching/cross_entropy", "masked_language/cross_entropy")
TAGS = ("image_text/text_to_image_r1", "image_text/image_to_text_r1", "matching/accuracy", "masked_language/accuracy")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("words")
    assert in_process("fit", *TINY, "--trainer.max_steps", "6", "--trainer.default_root_dir", root) == 0
    return root / "words" / "version_0"


def test_all_objectives_train_together_and_tell_their_tags(trained):
    for tag in TAGS:
        assert all(0 <= value <= 1 for value in curve(trained, f"val/{tag}").values()), tag
    for tag in LOSSES:
        assert len(curve(trained, f"train/{tag}")) == 6 and curve(trained, f"val/{tag}"), tag
    last = {tag: list(curve(trained, f"val/{tag}").values())[-1] for tag in (*LOSSES, "loss")}
    assert last["loss"] == pytest.approx(sum(last[tag] for tag in LOSSES), rel=1e-4)


def test_the_config_of_the_run_shows_the_vocabulary_and_no_flips(trained):
    text = (trained / "config.yaml").read_text()
    assert "vocabularies/" in text and "flip: 0.0" in text and "- 0.6" in text


def test_a_run_goes_on_bit_equal_where_the_vocabulary_it_learned_is_gone(trained, tmp_path):
    words = [*TINY, "--trainer.max_steps", "6", "--trainer.default_root_dir", tmp_path]
    stopped = in_process("fit", *words, "--trainer.limit_train_batches", "3", "--trainer.max_epochs", "1")
    assert stopped == 0 and content(tmp_path / "words" / "version_0")["global_step"] == 3
    shutil.rmtree(Path(os.environ["MAE_VLM_CACHE"]) / "vocabularies")
    assert in_process("fit", *words, "--trainer.max_epochs", "-1", "--ckpt_path", "last") == 0
    assert not differing_weights(tmp_path / "words" / "version_0", trained)


def test_a_run_goes_on_bit_equal_from_its_checkpoint_alone(trained, tmp_path):
    """The order of objectives is part of what a checkpoint remembers: the optimizer's state is told by it."""
    words = ["--trainer.default_root_dir", tmp_path / "whole", "--checkpoint.every_n_steps", "3"]
    assert in_process("fit", *TINY, "--trainer.max_steps", "6", *words) == 0
    early = tmp_path / "whole" / "words" / "version_0" / "checkpoints" / "step_00000003.ckpt"
    again = ["--name", "words", "--trainer.default_root_dir", tmp_path / "again", "--probes.pictures", "0"]
    assert in_process("fit", "--ckpt_path", early, *MACHINE, *again) == 0
    assert not differing_weights(tmp_path / "again" / "words" / "version_0", trained)


def test_a_run_brings_its_vocabulary_along(trained, capsys):
    shutil.rmtree(Path(os.environ["MAE_VLM_CACHE"]) / "vocabularies", ignore_errors=True)
    assert in_process("validate", "--ckpt_path", trained, *MACHINE) == 0
    assert "val/image_text/text_to_image_r1" in capsys.readouterr().out
    assert "[MASK]" in content(trained)["mae_vlm"]["text"]["vocabulary"]


def test_its_encoder_loads_without_the_words_and_where_nothing_can_be_kept(trained, monkeypatch):
    monkeypatch.setenv("MAE_VLM_CACHE", "/dev/null/nowhere")
    features = load(trained).encode(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert features.shape == (2, 32) and features.isfinite().all()


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path):
    words = ["--trainer.max_steps", "4", "--trainer.val_check_interval", "100"]
    assert in_process("fit", *TINY, *words, "--trainer.default_root_dir", tmp_path / "one") == 0
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    found = in_new_process("fit", *TINY, *words, *two, "--trainer.default_root_dir", tmp_path / "two", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    check_same_losses(tmp_path / "two" / "words" / "version_0", tmp_path / "one" / "words" / "version_0", 4)


def test_gradient_caching_takes_the_same_steps(trained, tmp_path):
    words = ["--model.chunks", "3", "--trainer.max_steps", "6", "--trainer.default_root_dir", tmp_path]
    assert in_process("fit", *TINY, *words) == 0
    check_same_losses(tmp_path / "words" / "version_0", trained, 6)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--trainer.accumulate_grad_batches", "2"], "set model.chunks to 2 instead"),
        (["--model.fusion", "null"], "this needs a fusion tower"),
        (["--model.text.length", "2"], "length 2 given: a text needs at least 3 tokens"),
        (["--model.text.vocabulary", "nowhere.json"], "no tokenizer.json or vocab.txt there"),
        (["--model.teacher", "0.9"], "no objective looks at it"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(options, message, tmp_path, capsys):
    assert in_process("fit", *TINY, *options, "--trainer.max_steps", "1", "--trainer.default_root_dir", tmp_path) != 0
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and message in said[0]
    assert not list(tmp_path.rglob("version_*"))


def test_pictures_without_captions_are_told_before_anything_is_made(tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(8):
        Image.new("RGB", (40, 40), (number * 30, 0, 0)).save(folder / f"{number}.png")
    words = ["--data.path", folder, "--trainer.max_steps", "1", "--trainer.default_root_dir", tmp_path / "runs"]
    assert in_process("fit", *TINY, *words) != 0
    assert "no captions to learn a vocabulary from" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("version_*"))


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_a_vocabulary_is_learned_by_one_command(kind, tmp_path, capsys):
    out = tmp_path / "deep" / "vocabulary.json"
    assert in_process("vocabulary", "--size", "300", "--kind", kind, "--out", out) == 0
    assert "--model.text.vocabulary" in capsys.readouterr().out
    assert "[MASK]" in json.loads(out.read_text())["model"]["vocab"]


def test_a_folder_is_no_place_for_a_vocabulary(tmp_path, capsys):
    assert in_process("vocabulary", "--out", tmp_path) == 1
    assert "is a folder; name a file in it" in capsys.readouterr().err


def test_two_views_train_through_the_command_line(tmp_path):
    from tiny_runs import TINY as PLAIN

    views = ["--model.objectives.views", "mae_vlm.objectives.views.Views", "--model.objectives.views.queue", "32", "--model.teacher", "0.9"]
    words = [*PLAIN, *views, "--probes.pictures", "0", "--trainer.log_every_n_steps", "1", "--trainer.max_steps", "3"]
    assert in_process("fit", *words, "--trainer.default_root_dir", tmp_path) == 0
    run = tmp_path / "default" / "version_0"
    assert len(curve(run, "train/views/contrast")) == 3 and curve(run, "val/views/accuracy")
    state = content(run)["state_dict"]
    assert int(state["objectives.views.place"]) == 48 % 32 and "teacher.image.vit.norm.weight" in state
