"""A mistake of the user: one line that says what was given, what is allowed and what to do; no traceback, no half-made run."""

from __future__ import annotations

import os
import pickle

import pytest
import torch
import yaml
from tiny_runs import DATA, MACHINE, TINY, in_process

PRETRAINER = "mae_vlm.learners.pretrain.Pretrainer"


@pytest.fixture
def refused(complaint, tmp_path, monkeypatch):
    """``fit`` with a mistake in it: its complaint. Asserts that nothing was written."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "runs_of_the_test"

    def run(*words, base=TINY, code=None):
        line = complaint("fit", *base, "--trainer.max_steps", "2", "--trainer.default_root_dir", root, *words, code=code)
        assert not root.exists(), "a half-made run folder"
        return line

    return run


def saying(line, *parts):
    assert all(part in line for part in parts), line


# -- data


def test_missing_path(refused):
    saying(refused("--data.path", "/nowhere/photos", base=MACHINE), "/nowhere/photos", "does not exist", "give a folder")


def test_path_like_a_hub_name_hints_at_the_hub_and_stays_off_the_network(refused):
    saying(refused("--data.path", "org/name", base=MACHINE), "org/name does not exist", "hf://datasets/org/name")


def test_empty_folder(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    saying(refused("--data.path", tmp_path / "empty", base=MACHINE), "empty", "is an empty folder", ".jpg")


def test_folder_without_a_picture(refused, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("no pictures here")
    saying(refused("--data.path", tmp_path / "notes", base=MACHINE), "notes", "holds no picture", ".jpg")


def test_unknown_column(refused, tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"picture": pa.array([b"x"] * 8), "label": list(range(8))}), tmp_path / "train.parquet")
    line = refused("--data.path", tmp_path / "train.parquet", "--data.image_column", "photo", base=MACHINE)
    saying(line, "photo", "picture")


def test_batch_size_that_processes_and_steps_do_not_divide(refused):
    line = refused("--data.batch_size", "15", "--trainer.accumulate_grad_batches", "2")
    saying(line, "batch_size 15", "1 processes x 2", "multiple of 2", "such as 16")


def test_batch_larger_than_the_collection(refused):
    saying(refused("--data.batch_size", "65"), "65", "64 pictures", "at most 64")


@pytest.mark.parametrize("option, value", [("batch_size", "0"), ("num_workers", "-1"), ("flip", "2"), ("crop_scale", "[0.5, 0.2]")])
def test_data_option_out_of_its_range(option, value, refused):
    saying(refused(f"--data.{option}", value), option.split("_")[0], value.strip("[]").split(",")[0])


# -- model


@pytest.mark.parametrize("size", ["33", "[32, 36]"])
def test_image_size_that_the_patch_does_not_divide(size, refused):
    saying(refused("--data.image_size", size), "patch 8", "multiple")


@pytest.mark.parametrize("ratio", ["0", "1", "1.5"])
def test_mask_ratio_outside_its_range(ratio, refused):
    saying(refused("--model.masking.ratio", ratio), f"mask ratio {float(ratio)}", "strictly between 0 and 1", "0.75")


def test_mask_ratio_that_leaves_no_patch(refused):
    saying(refused("--model.masking.ratio", "0.99"), "0.99", "leaves 0 of 16")


def test_unknown_timm_name_is_answered_with_near_ones(refused):
    saying(refused("--model.encoder.name", "vit_smal_patch16_224", base=[*MACHINE, *DATA]), "vit_smal_patch16_224", "vit_small_patch16_224")


def test_timm_model_that_is_no_vit(refused):
    saying(refused("--model.encoder.name", "resnet18", base=[*MACHINE, *DATA]), "resnet18", "vit_*")


def test_negative_learning_rate(refused):
    saying(refused("--model.optimizer.base_lr", "-1"), "base_lr -1", "0 or more")


def test_width_that_the_heads_do_not_divide(refused):
    saying(refused("--model.encoder.heads", "3"), "width 32", "heads 3", "multiple")


def test_wrong_class_path(refused):
    saying(
        refused("--model.masking", "mae_vlm.tokens.masking.RandonMask", code=2),
        "mae_vlm.tokens.masking has no class RandonMask",
        "did you mean RandomMask?",
    )


def test_class_path_of_a_module_that_is_not_there(refused):
    saying(refused("--model.masking", "nowhere.at.all.Mask", code=2), "nowhere.at.all.Mask")


def test_class_of_another_kind(refused):
    saying(refused("--model.masking", "mae_vlm.objectives.pixels.Pixels", code=2), "Pixels", "Mask")


# -- options


@pytest.mark.parametrize(
    "given, meant",
    [
        ("--trainr.max_steps", "--trainer.max_steps"),
        ("--data.bach_size", "--data.batch_size"),
        ("--nme", "--name"),
        ("--checkpoint.every_n_step", "--checkpoint.every_n_steps"),
        ("--model.encoder.widht", "width"),
        ("--model.init_args.encoder.init_args.widht", "width"),
        ("--model.masking.ration", "ratio"),
        ("--model.objectives.pixels.weigth", "weight"),
        ("--model.optimiser.base_lr", "optimizer"),
    ],
)
def test_misspelt_option_is_answered_with_the_right_one(given, meant, refused):
    line = refused(given, "2", code=2)
    saying(line, given.removeprefix("--model.").rpartition(".")[2], f"did you mean {meant}?")


@pytest.mark.parametrize("option, value", [("trainer.max_steps", "many"), ("data.batch_size", "big"), ("model.encoder.width", "wide")])
def test_value_of_the_wrong_kind(option, value, refused):
    saying(refused(f"--{option}", value, code=2), option.rpartition(".")[2], value, "allowed is int")


# -- configs


def test_config_that_is_not_there(refused):
    saying(refused("--config", "nowhere.yaml", code=2), "nowhere.yaml")


def test_broken_yaml(refused, tmp_path):
    (tmp_path / "broken.yaml").write_text("trainer: {max_steps: 3\ndata: [")
    saying(refused("--config", tmp_path / "broken.yaml", code=2), "broken.yaml", "not valid YAML", "line 2")


def test_config_that_is_no_mapping(refused, tmp_path):
    (tmp_path / "list.yaml").write_text("- 1\n- 2\n")
    saying(refused("--config", tmp_path / "list.yaml", code=2), "list.yaml", "holds a list")


def test_misspelt_option_in_a_config(refused, tmp_path):
    config = {
        "model": {
            "class_path": PRETRAINER,
            "init_args": {
                "encoder": {"class_path": "mae_vlm.encoders.vit.Vit", "init_args": {"widht": 64}},
                "masking": {"class_path": "mae_vlm.tokens.masking.RandomMask"},
                "objectives": {"pixels": {"class_path": "mae_vlm.objectives.pixels.Pixels"}},
                "optimizer": {"class_path": "mae_vlm.learners.optim.AdamW"},
            },
        }
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config))
    saying(refused("--config", tmp_path / "mine.yaml", base=[*MACHINE, *DATA], code=2), "widht", "did you mean width?")
    (tmp_path / "data.yaml").write_text("data: {bach_size: 4}\n")
    saying(refused("--config", tmp_path / "data.yaml", code=2), "bach_size", "did you mean")


# -- checkpoints and folders


def test_last_without_a_run(refused):
    saying(refused("--ckpt_path", "last", code=1), "--ckpt_path last", "no checkpoint under", "without it")


def test_checkpoint_that_is_not_there(refused):
    saying(refused("--ckpt_path", "nowhere.ckpt", code=1), "nowhere.ckpt", "no checkpoint there")


def test_checkpoint_that_is_none(refused, tmp_path):
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    saying(refused("--ckpt_path", tmp_path / "text.ckpt", code=1), "text.ckpt", "cannot be read as plain tensors")


class Harm:
    """Were its pickle loaded as code, it would leave a file behind."""

    def __reduce__(self):
        return os.mkdir, ("harmed",)


@pytest.mark.parametrize("write", [pickle.dump, torch.save], ids=["pickle", "torch"])
def test_pickle_is_refused_and_not_run(write, refused, tmp_path):
    with (tmp_path / "harm.ckpt").open("wb") as file:
        write({"state_dict": Harm()}, file)
    saying(refused("--ckpt_path", tmp_path / "harm.ckpt", code=1), "harm.ckpt", "cannot be read as plain tensors")
    assert not (tmp_path / "harmed").exists()


def test_checkpoint_of_somebody_else(refused, tmp_path):
    torch.save({"state_dict": {"weight": torch.zeros(2)}}, tmp_path / "other.ckpt")
    saying(refused("--ckpt_path", tmp_path / "other.ckpt", code=1), "other.ckpt", "not a checkpoint of mae_vlm")


def test_checkpoint_that_does_not_fit_the_sizes_given(refused, trained):
    line = refused("--ckpt_path", trained.folder, "--model.encoder.width", "64")
    saying(line, ".ckpt does not fit", "towers.image", "[1, 1, 32]", "[1, 1, 64]")


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_verbs_on_a_trained_run_ask_for_it(verb, complaint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saying(complaint(verb, code=1), f"{verb} needs a trained run", "--ckpt_path RUN")
    assert list(tmp_path.iterdir()) == []


def test_convert_of_nothing(complaint, tmp_path):
    saying(complaint("convert", tmp_path / "nothing", "--to", "timm", "--out", tmp_path / "out", code=1), "nothing", "no checkpoint there")
    assert not (tmp_path / "out").exists()


def test_root_that_is_a_file(complaint, tmp_path):
    (tmp_path / "taken").write_text("")
    line = complaint("fit", *TINY, "--trainer.max_steps", "2", "--trainer.default_root_dir", tmp_path / "taken", code=1)
    saying(line, "taken")


def test_root_that_may_not_be_written(complaint, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if os.access(locked, os.W_OK):
        pytest.skip("this user may write everywhere")
    saying(complaint("fit", *TINY, "--trainer.max_steps", "2", "--trainer.default_root_dir", locked / "runs", code=1), "locked")


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch, tmp_path):
    def broken(*_, **__):
        raise KeyError("ours")

    monkeypatch.setattr("mae_vlm.cli.training.choose", broken)
    with pytest.raises(KeyError, match="ours"):
        in_process("fit", *TINY, "--trainer.default_root_dir", tmp_path)


def test_norms_over_several_processes_on_cpus_are_refused_in_words():
    from torch import nn

    from mae_vlm.cli.compatibility import check_batchnorm

    normed = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    with pytest.raises(ValueError, match=r"trainer\.sync_batchnorm given with 2 processes on CPUs, .* \(1\); leave it out"):
        check_batchnorm(normed, 2, "cpu")
    check_batchnorm(normed, 2, "cuda")
    check_batchnorm(normed, 1, "cpu")
    check_batchnorm(normed[:1], 2, "cpu")
