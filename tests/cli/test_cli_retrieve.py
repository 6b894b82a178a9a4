"""Retrieval as a fine-tuning, through the real command line."""

from __future__ import annotations

import pyarrow.parquet
import pytest
from test_cli_words import TINY as PRETRAINED
from tiny_runs import MACHINE, REPOSITORY, check_same_losses, content, curve, in_new_process, in_process

CONFIG = ["--config", str(REPOSITORY / "configs" / "finetune" / "quick_retrieve.yaml"), *MACHINE]
DATA = ["--data.scenes", "48", "--data.val_scenes", "12", "--data.image_size", "32", "--data.batch_size", "12"]
SIZES = ["--model.encoder.width", "32", "--model.encoder.depth", "2", "--model.encoder.heads", "2", "--model.text.width", "32"]
SMALL = [*SIZES, "--model.text.depth", "1", "--model.text.heads", "2", "--model.heads.retrieve.width", "16"]
QUIET = ["--pictures.count", "4", "--trainer.log_every_n_steps", "1", "--name", "retrieve"]
STEADY = ["--model.optimizer.warmup", "0", "--model.optimizer.floor", "1", "--trainer.val_check_interval", "3"]
TINY = [*CONFIG, *DATA, *SMALL, *QUIET, *STEADY]
FUSION = ["--model.fusion", "mae_vlm.encoders.fusion.cross.CrossAttention", "--model.fusion.depth", "1", "--model.fusion.heads", "2"]
TAGS = [f"{way}_{what}" for way in ("text_to_image", "image_to_text") for what in ("r1", "r5", "r10", "median_rank")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("retrieve")
    assert in_process("fit", *TINY, "--trainer.max_steps", "6", "--trainer.default_root_dir", root) == 0
    return root / "retrieve" / "version_0"


def test_it_tells_its_tags_and_keeps_the_best(trained):
    for tag in (*TAGS, "recall_mean", "loss", "retrieve/contrast"):
        assert curve(trained, f"val/{tag}"), tag
    assert len(curve(trained, "train/retrieve/contrast")) == 6
    assert (trained / "checkpoints" / "best.ckpt").is_file() and list((trained / "pictures").glob("retrieved_*.png"))
    six = [list(curve(trained, f"val/{way}_r{k}").values())[-1] for way in ("text_to_image", "image_to_text") for k in (1, 5, 10)]
    assert list(curve(trained, "val/recall_mean").values())[-1] == pytest.approx(sum(six) / 6, rel=1e-3)


def test_validate_tells_the_same_again(trained, capsys):
    assert in_process("validate", "--ckpt_path", trained, *MACHINE) == 0
    assert "val/text_to_image_r10" in capsys.readouterr().out


def test_predict_leaves_embeddings(trained, tmp_path):
    assert in_process("predict", "--ckpt_path", trained, *MACHINE, "--out", tmp_path) == 0
    table = pyarrow.parquet.read_table(tmp_path / "features_0.parquet")
    assert table.num_rows == 48 and len(table["features"][0]) == 16 and table["id"][0].as_py() == "scene-0-0"
    assert sum(value**2 for value in table["features"][7].as_py()) == pytest.approx(1, abs=1e-4)


def test_it_goes_on_from_a_run_with_words_in_the_space_of_that_run(tmp_path):
    words = [*PRETRAINED, "--trainer.max_steps", "2", "--trainer.default_root_dir", tmp_path]
    assert in_process("fit", *words, "--model.objectives.image_text.pool", "mean", "--model.objectives.image_text.image_queries", "3") == 0
    drawn = {file.name.rpartition("_")[0] for file in (tmp_path / "words" / "version_0" / "pictures").iterdir()}
    assert {"retrieved", "words", "reconstruction"} <= drawn
    start = ["--model.weights", tmp_path / "words" / "version_0", "--trainer.max_steps", "2", "--trainer.default_root_dir", tmp_path]
    plain = [*CONFIG, "--model.text", "null", *DATA, *QUIET, *STEADY, *start]
    assert in_process("fit", *plain) == 0
    run = tmp_path / "retrieve" / "version_0"
    config, state = (run / "config.yaml").read_text(), content(run)["state_dict"]
    assert "pool: mean" in config and state["towers.joint.image.weight"].shape == (16, 96)
    assert "image_queries: 3" in config and state["towers.joint.look.score.weight"].shape == (3, 32)
    assert not [name for name in state if "fusion" in name]  # nobody looks at it
    assert in_process("fit", *plain, "--model.heads.retrieve.rerank", "3") == 0
    again = tmp_path / "retrieve" / "version_1"
    assert [name for name in content(again)["state_dict"] if name.startswith("towers.fusion.")]
    assert curve(again, "val/recall_mean_unranked") and len(curve(again, "train/retrieve/matching")) == 2


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one_and_find_the_same(tmp_path):
    words = [*TINY, *FUSION, "--model.heads.retrieve.rerank", "4", "--trainer.max_steps", "4", "--trainer.val_check_interval", "4"]
    assert in_process("fit", *words, "--trainer.default_root_dir", tmp_path / "one") == 0
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.default_root_dir", tmp_path / "two"]
    found = in_new_process("fit", *words, *two, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    one, two = tmp_path / "one" / "retrieve" / "version_0", tmp_path / "two" / "retrieve" / "version_0"
    check_same_losses(two, one, 4)
    for tag in ("text_to_image_r5", "image_to_text_r5", "recall_mean_unranked"):
        assert curve(two, f"val/{tag}") == pytest.approx(curve(one, f"val/{tag}"), abs=1e-3), tag


@pytest.mark.parametrize(
    "options, message",
    [
        (["--trainer.accumulate_grad_batches", "2"], "head retrieve contrasts the pictures of a batch"),
        (["--model.heads.retrieve.rerank", "4"], "this needs a fusion tower"),
        (["--model.heads.retrieve.pool", "best"], "pool 'best' and image_queries 0 given"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(options, message, tmp_path, complaint):
    assert message in complaint("fit", *TINY, *options, "--trainer.max_steps", "1", "--trainer.default_root_dir", tmp_path)
    assert not list(tmp_path.rglob("version_*"))
