"""Fine-tuning by low-rank adapters through the command line."""

from __future__ import annotations

import shutil
import sys

import pytest
import torch
import yaml
from tiny_runs import DATA, MACHINE, REPOSITORY, TINY, content, curve, differing_weights, in_process

import mae_vlm
from mae_vlm.encoders.lora import is_adapter

CONFIG = ["--config", REPOSITORY / "configs" / "finetune" / "quick_classify.yaml"]
QUIET = ["--probes.pictures", "0"]
LORA = ["--model.lora.rank", "2", "--model.lora.dropout", "0.1"]  # whose draws a resume must go on with
SMALL = [*CONFIG, *MACHINE, *DATA, *QUIET]
LENGTH = ["--trainer.max_steps", "8", "--trainer.log_every_n_steps", "1", "--checkpoint.keep_every", "4", "--ema.decay", "0.9"]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    root = tmp_path_factory.mktemp("pretrained")
    assert in_process("fit", *TINY, *QUIET, "--trainer.max_steps", "2", "--trainer.default_root_dir", root) == 0
    return root / "default" / "version_0"


@pytest.fixture(scope="module")
def tuned(pretrained, tmp_path_factory):
    root = tmp_path_factory.mktemp("tuned")
    assert in_process("fit", *SMALL, *LENGTH, *LORA, "--model.weights", pretrained, "--trainer.default_root_dir", root) == 0
    return root / "quick_classify" / "version_0"


def test_adapters_and_heads_move_and_nothing_else_does(tuned, pretrained):
    theirs, ours = content(pretrained)["state_dict"], content(tuned)["state_dict"]
    for name, value in theirs.items():
        inside = next((one for one in (name, name.replace(".weight", ".base_layer.weight"), name.replace(".bias", ".base_layer.bias"))
                       if one in ours), None)  # fmt: skip
        assert inside is None or torch.equal(ours[inside], value), name
    ups = [value for name, value in ours.items() if is_adapter(name) and "lora_B" in name]
    assert len(ups) == 4 and all(value.abs().max() > 0 for value in ups)
    assert len(curve(tuned, "train/loss")) == 8
    kept = content(tuned)["callbacks"]["Ema"]["weights"]
    assert all(is_adapter(name) or name.startswith("heads.") for name in kept)


def test_lower_layers_learn_as_fast_as_upper_ones(tuned):
    options = yaml.safe_load((tuned / "config.yaml").read_text())["model"]["init_args"]
    assert options["optimizer"]["init_args"]["layer_decay"] is None
    assert options["lora"] == {"rank": 2, "alpha": 16.0, "targets": ["qkv", "proj"], "dropout": 0.1}


def test_a_run_that_was_cut_off_ends_bit_equal_also_without_the_weights_it_began_with(tuned, pretrained, tmp_path):
    run = tmp_path / "quick_classify" / "version_0"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(tuned / "checkpoints" / "step_00000004.ckpt", run / "checkpoints")
    away = pretrained.rename(pretrained.with_name("away"))
    try:
        assert in_process("fit", *SMALL, *LENGTH, "--ckpt_path", "last", "--trainer.default_root_dir", tmp_path) == 0
    finally:
        away.rename(pretrained)
    assert differing_weights(tuned, run) == []


@torch.no_grad()
@pytest.mark.parametrize("weights", ["raw", "ema"])
def test_load_and_convert_merge_the_adapters(tuned, tmp_path, weights, monkeypatch):
    import timm

    from mae_vlm.convert.averaged import chosen
    from mae_vlm.encoders.lora import Lora, adapt

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "peft", None)  # needed to train alone
        embedder = mae_vlm.load(tuned, weights=weights)
        assert in_process("convert", tuned, "--to", "timm", "--weights", weights, "--out", tmp_path / "timm") == 0
    whole = mae_vlm.load(tuned, weights=weights).encoder
    adapt(whole, Lora(rank=2))
    state = chosen(content(tuned), weights, tuned)
    prefix = "towers.image."
    whole.load_state_dict({name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)})
    images = embedder.encoder.normalise(torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8))
    unmerged = whole.eval().full(images).patches_BND
    torch.testing.assert_close(embedder.encoder.full(images).patches_BND, unmerged, atol=1e-5, rtol=0)
    model = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    torch.testing.assert_close(model(images), unmerged.mean(1), atol=1e-5, rtol=0)


def test_validate_and_a_further_run_begin_with_it(tuned, tmp_path, capsys):
    assert in_process("validate", *MACHINE, "--ckpt_path", tuned, "--trainer.default_root_dir", tmp_path) == 0
    last = list(curve(tuned, "val/loss").values())[-1]
    (told,) = [line for line in capsys.readouterr().out.splitlines() if "val/loss" in line][-1:]
    assert float(told.split()[-2]) == pytest.approx(last, abs=1e-6)
    words = [*SMALL, "--model.weights", tuned, "--trainer.max_steps", "1", "--trainer.default_root_dir", tmp_path]
    assert in_process("fit", *words) == 0
    assert "weights taken" in capsys.readouterr().out and not any(
        map(is_adapter, content(tmp_path / "quick_classify" / "version_0")["state_dict"])
    )


@pytest.mark.slow
def test_two_processes_train_as_one(tuned, pretrained, tmp_path):
    from several_processes import on_processes

    words = [*SMALL, *LENGTH, *LORA[:2], "--model.weights", pretrained]
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    assert in_process("fit", *words, "--trainer.default_root_dir", tmp_path / "one") == 0
    assert on_processes(2, in_process, "fit", *words, *two, "--trainer.default_root_dir", tmp_path / "two") == [0, 0]
    runs = [root / "quick_classify" / "version_0" for root in (tmp_path / "one", tmp_path / "two")]
    assert curve(runs[1], "train/loss") == pytest.approx(curve(runs[0], "train/loss"), abs=1e-4)


def test_without_peft_one_line_says_what_to_install(complaint, pretrained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    words = [*SMALL, *LORA, "--model.weights", pretrained, "--trainer.default_root_dir", tmp_path / "runs"]
    assert "pip install 'mae_vlm[lora]'" in complaint("fit", *words)


@pytest.mark.parametrize(
    "words, told",
    [
        (["--model.lora.rank", "0"], "lora rank 0 must be 1 or more"),
        ([*LORA, "--model.freeze", "1"], "freeze 1 given beside lora"),
        (["--model.lora.targets", "[query]"], "lora.targets query is no linear layer of the encoder's blocks"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(complaint, pretrained, tmp_path, words, told):
    words = [*SMALL, *words, "--model.weights", pretrained, "--trainer.default_root_dir", tmp_path / "runs"]
    assert told in complaint("fit", *words)
