"""A linear probe of a pretrained run, through the command line."""

from __future__ import annotations

import pytest
import torch
from tiny_runs import DATA, ENCODER, MACHINE, REPOSITORY, TINY, content, curve, in_process

CONFIG = ["--config", REPOSITORY / "configs" / "finetune" / "quick_probe.yaml"]
SMALL = [*CONFIG, *MACHINE, *DATA, "--probes.pictures", "0", "--pictures.encoder", "false", "--trainer.log_every_n_steps", "1"]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    root = tmp_path_factory.mktemp("pretrained")
    assert in_process("fit", *TINY, "--probes.pictures", "0", "--trainer.max_steps", "2", "--trainer.default_root_dir", root) == 0
    return root / "default" / "version_0"


@pytest.fixture(scope="module")
def probed(pretrained, tmp_path_factory):
    root = tmp_path_factory.mktemp("probed")
    words = ["--model.weights", pretrained, "--trainer.max_steps", "8", "--checkpoint.keep_every", "4"]
    assert in_process("fit", *SMALL, *words, "--trainer.default_root_dir", root) == 0
    return root / "quick_probe" / "version_0"


def test_the_encoder_stays_as_it_was_pretrained_and_the_layers_learn_at_their_rates(probed, pretrained):
    theirs, ours, before = (content(*of)["state_dict"] for of in ((pretrained,), (probed,), (probed, "step_00000004")))
    assert all(torch.equal(ours[name], value) for name, value in theirs.items() if name.startswith("towers."))
    moved = [(ours[f"heads.probe.layers.{n}.linear.weight"] - before[f"heads.probe.layers.{n}.linear.weight"]).norm() for n in range(6)]
    assert moved == sorted(moved) and moved[0] < 0.1 * moved[-1] and moved[0] > 0


def test_it_tells_accuracy_neighbours_and_the_rate_that_was_chosen(probed):
    for tag in ("val/top1", "val/knn", "val/held_top1"):
        assert all(0 <= value <= 1 for value in curve(probed, tag).values()) and curve(probed, tag), tag
    rates = curve(probed, "val/rate").values()
    assert len(rates) >= 2 and all(pytest.approx(rate) in [0.01, 0.03, 0.1, 0.3, 1.0, 3.0] for rate in rates)
    assert content(probed)["state_dict"]["heads.probe.tally"][-1] > 0


def test_a_run_that_was_cut_off_ends_bit_equal_and_chooses_alike(probed, pretrained, tmp_path):
    run = tmp_path / "quick_probe" / "version_0"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "step_00000004.ckpt").write_bytes((probed / "checkpoints" / "step_00000004.ckpt").read_bytes())
    words = ["--trainer.max_steps", "8", "--checkpoint.keep_every", "4", "--ckpt_path", "last"]
    assert in_process("fit", *SMALL, *words, "--trainer.default_root_dir", tmp_path) == 0
    ours, theirs = content(run), content(probed)
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    assert [name for name, value in ours["state_dict"].items() if not torch.equal(value, theirs["state_dict"][name])] == []
    state, other = ours["optimizer_states"][0]["state"], theirs["optimizer_states"][0]["state"]
    assert state and all(torch.equal(state[n]["momentum_buffer"], other[n]["momentum_buffer"]) for n in state)


def test_the_answers_are_those_of_the_chosen_layer(probed, tmp_path):
    words = ["--data.scenes", "8", "--data.val_scenes", "4", "--out", tmp_path]
    assert in_process("predict", *MACHINE, "--ckpt_path", probed, *words) == 0
    assert (tmp_path / "predictions.csv").read_text().startswith("id,class,score,class_2")


def test_the_papers_recipe_of_one_layer_and_lars_learns(tmp_path):
    words = ["--model.heads.probe.rates", "null", "--model.optimizer.trust", "0.001", "--model.heads.probe.pooling", "class_token"]
    words += ["--model.optimizer.base_lr", "10", "--trainer.max_steps", "12", "--trainer.default_root_dir", tmp_path]
    assert in_process("fit", *SMALL, *ENCODER, *words) == 0
    losses = curve(tmp_path / "quick_probe" / "version_0", "train/probe/cross_entropy")
    assert losses[11] < losses[0] and "val/rate" not in (tmp_path / "quick_probe" / "version_0" / "metrics.csv").read_text()


@pytest.mark.parametrize(
    "words, told",
    [
        (["--model.freeze", "none"], "a probe tells what a frozen encoder's features hold, and this one learns; set model.freeze all"),
        (["--model.heads.probe.rates", "[0.1,-1]"], "must be multiples of the optimizer's rate"),
        (["--model.heads.probe.block", "7"], "block 7 given, the encoder's blocks are numbered 0 to 1"),
        (["--model.optimizer.trust", "-1"], "trust -1.0 given, allowed is more than 0"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(complaint, tmp_path, words, told):
    length = ["--trainer.max_steps", "2", "--trainer.default_root_dir", tmp_path]
    assert told in complaint("fit", *SMALL, *ENCODER, *length, *words)
