"""Promises of ``--model.weights SRC``: pretraining goes on, and fine-tuning starts, from whatever can be read."""

from __future__ import annotations

import shutil

import pytest
import torch
import yaml
from paper_mae import PaperMae, shaken
from timm.layers import resample_abs_pos_embed
from tiny_runs import DATA, MACHINE, content, in_process
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTMAEConfig, ViTMAEForPreTraining, ViTModel

from mae_vlm.convert import foreign, native
from mae_vlm.convert.channels import adapted
from mae_vlm.convert.conversion import convert
from mae_vlm.tokens.words import learn

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 32, "patch_size": 8}
DECODER = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 1, "decoder_intermediate_size": 128}
STILL = ["--trainer.max_steps", "1", "--model.optimizer.init_args.base_lr", "0", "--pictures.count", "2"]  # one step that moves nothing
SMALL = [*MACHINE, *DATA]


def started(root, source, *words, still=STILL):
    assert in_process("fit", *SMALL, *still, "--model.weights", source, "--trainer.default_root_dir", root, *words) == 0
    return next(root.glob("*/version_0"))


def weights_of(run, prefix="towers.image."):
    return {name.removeprefix(prefix): value for name, value in content(run)["state_dict"].items() if name.startswith(prefix)}


def check(own, given):
    assert [name for name, value in given.items() if not torch.equal(own[name], value)] == []


def test_pretraining_goes_on_with_the_encoder_and_the_decoder_of_a_vitmae(tmp_path, capsys):
    shaken(ViTMAEForPreTraining(ViTMAEConfig(**SIZES, **DECODER))).save_pretrained(tmp_path / "source")
    run = started(tmp_path / "runs", tmp_path / "source")
    found = foreign.read(tmp_path / "source")
    check(weights_of(run), found.weights)
    check(weights_of(run, "objectives.pixels.decoder."), found.decoder.weights)
    said = capsys.readouterr().out
    assert "(transformers ViTMAEForPreTraining): 30 weights taken" in said and "decoder of pixels: 20 of 20 weights taken" in said
    assert native.read_encoder(run).vit.norm.eps == 1e-12, "the epsilon is kept in the run's own config"


def test_at_another_size_positions_of_encoder_and_decoder_are_resampled_and_said(tmp_path, capsys):
    torch.save({"model": shaken(PaperMae(patch=8, size=32)).state_dict()}, tmp_path / "paper.pth")
    run = started(tmp_path / "runs", tmp_path / "paper.pth", "--data.image_size", "48")
    found, said = foreign.read(tmp_path / "paper.pth"), capsys.readouterr().out
    assert "positions resampled from 4 x 4 to 6 x 6 patches" in said and "positions resampled from 4 x 4 to 6 x 6;" in said
    expected = resample_abs_pos_embed(found.weights["vit.pos_embed"], [6, 6], [4, 4], num_prefix_tokens=1)
    assert torch.equal(weights_of(run)["vit.pos_embed"], expected)
    assert "2 heads of attention: the paper's at width 128" in said


def test_without_a_decoder_there_one_begins_anew_and_the_rate_is_that_of_trained_weights(tmp_path, capsys):
    shaken(ViTModel(ViTConfig(**SIZES))).save_pretrained(tmp_path / "source")
    run = started(tmp_path / "runs", tmp_path / "source", still=["--trainer.max_steps", "1", "--pictures.count", "2"])
    said = capsys.readouterr().out
    assert "decoder: none there, begins anew" in said and "2 weights of no use here: pooler.dense.bias, pooler.dense.weight" in said
    assert "base_lr" in said and "0.00015   (goes on from trained weights" in said
    own, given = weights_of(run), foreign.read(tmp_path / "source").weights
    moved = max(float((own[name] - value).abs().max()) for name, value in given.items())
    assert 0 < moved < 1e-2, "it has learned from there, a step"


def test_a_run_of_ours_goes_on_with_its_decoder_and_a_user_may_take_another(tmp_path, capsys):
    shaken(ViTMAEForPreTraining(ViTMAEConfig(**SIZES, **DECODER))).save_pretrained(tmp_path / "source")
    convert(str(tmp_path / "source"), "native", tmp_path / "ours")
    run = started(tmp_path / "runs", tmp_path / "ours", "--model.objectives.pixels.width", "64")
    said = capsys.readouterr().out
    assert "(a run of ours): 30 weights taken" in said and "new as of another shape or not there:" in said and "decoder_pred.weight" in said
    check(weights_of(run), foreign.read(tmp_path / "source").weights)
    assert weights_of(run, "objectives.pixels.decoder.")["mask_token"].shape[-1] == 64


def test_a_converted_run_validates_and_predicts_like_any_other(tmp_path):
    shaken(ViTMAEForPreTraining(ViTMAEConfig(**SIZES, **DECODER))).save_pretrained(tmp_path / "source")
    convert(str(tmp_path / "source"), "native", tmp_path / "ours")
    assert in_process("validate", *SMALL, "--ckpt_path", tmp_path / "ours") == 0
    assert in_process("predict", *SMALL, "--ckpt_path", tmp_path / "ours", "--out", tmp_path / "out") == 0


def test_fine_tuning_starts_from_another_format(tmp_path, capsys):
    shaken(ViTModel(ViTConfig(**SIZES, hidden_act="quick_gelu"))).save_pretrained(tmp_path / "source")
    head = ["--model", "mae_vlm.learners.finetune.Finetuner", "--model.heads.classify", "mae_vlm.heads.classify.Classify",
            "--model.encoder", "mae_vlm.encoders.vit.Vit", "--model.optimizer", "mae_vlm.learners.optim.AdamW"]  # fmt: skip
    run = started(tmp_path / "runs", tmp_path / "source", *head)
    assert "(transformers ViTModel): 30 weights taken" in capsys.readouterr().out
    given = foreign.read(tmp_path / "source")
    check(weights_of(run), given.weights)
    assert native.read_encoder(run).model_args["act_layer"] == "quick_gelu"


def test_a_size_that_the_weights_decide_is_told_in_a_line(tmp_path, capsys):
    ViTModel(ViTConfig(**SIZES)).save_pretrained(tmp_path / "source")
    words = ["--model.weights", tmp_path / "source", "--model.encoder.width", "64", "--trainer.default_root_dir", tmp_path / "runs"]
    assert in_process("fit", *SMALL, *STILL, *words) == 1
    assert "model.encoder.width given, but the encoder of" in capsys.readouterr().err


def test_weights_that_nobody_reads_stop_a_program_of_ones_own():
    from mae_vlm.encoders.vit import Vit
    from mae_vlm.learners.optim import AdamW
    from mae_vlm.learners.pretrain import Pretrainer
    from mae_vlm.objectives.pixels import Pixels
    from mae_vlm.tokens.masking import RandomMask

    model = Pretrainer(
        Vit(width=32, depth=1, heads=2, patch=8, image_size=32),
        RandomMask(),
        {"pixels": lambda towers: Pixels(towers, width=32, depth=1)},
        AdamW(),
        weights="x",
    )
    with pytest.raises(ValueError, match=r"weights x are not read; the command line does it, in a program call Pretrainer\.adopt"):
        model.on_fit_start()


@pytest.mark.parametrize("channels", [1, 2, 5, 6])
def test_three_channel_weights_answer_grey_pictures_alike_in_any_number_of_channels(channels):
    kernel = torch.randn(8, 3, 4, 4)
    weights, told = adapted({"vit.patch_embed.proj.weight": kernel, "vit.norm.weight": torch.ones(8)}, channels)
    made = weights["vit.patch_embed.proj.weight"]
    assert made.shape == (8, channels, 4, 4) and f"of 3 channels made one of {channels}" in told
    assert torch.equal(weights["vit.norm.weight"], torch.ones(8))
    if channels in (1, 6):  # whole repetitions
        torch.testing.assert_close(made.sum(1), kernel.sum(1))
    if channels > 3:
        torch.testing.assert_close(made[:, 4], kernel[:, 1] * 3 / channels)


def test_the_projection_behind_a_convolutional_stem_is_no_kernel_of_the_picture():
    weights = {"vit.patch_embed.backbone.0.weight": torch.ones(4, 3, 3, 3), "vit.patch_embed.proj.weight": torch.ones(8, 4, 1, 1)}
    assert adapted(weights, 3) == (weights, "")


def test_weights_of_as_many_channels_stay_as_they_are():
    weights = {"vit.patch_embed.proj.weight": torch.randn(8, 3, 4, 4)}
    assert adapted(weights, 3) == (weights, "")


CONTRAST = [
    "--model.text", "mae_vlm.encoders.text.transformer.Transformer",
    "--model.objectives.contrast", "mae_vlm.objectives.image_text.SoftmaxContrast", "--model.objectives.contrast.pool", "end",
]  # fmt: skip


def test_pretraining_with_words_goes_on_with_clips_towers_and_vocabulary(tmp_path, capsys):
    body = {name: value for name, value in SIZES.items() if name not in ("image_size", "patch_size")}
    text = body | {"vocab_size": 320, "max_position_embeddings": 16, "bos_token_id": 2, "eos_token_id": 3}
    shaken(CLIPModel(CLIPConfig(text_config=text, vision_config=SIZES, projection_dim=24))).save_pretrained(tmp_path / "source")
    (tmp_path / "source" / "tokenizer.json").write_text(learn(["a red square above a disc"], 320, kind="bpe").json, encoding="utf-8")
    run = started(tmp_path / "runs", tmp_path / "source", *CONTRAST)
    said = capsys.readouterr().out
    assert "(transformers CLIPModel)" in said and "towers of words: 36 weights taken, missing there and new: joint" in said
    _, given = native.stated_words(tmp_path / "source")
    check(weights_of(run, "towers."), given)
    assert native.stated_words(run)[0]["text"]["init_args"]["config"]["model_type"] == "clip_text_model"


def test_a_text_tower_of_somebody_elses_code_is_not_imported(tmp_path, capsys, monkeypatch):
    shaken(ViTMAEForPreTraining(ViTMAEConfig(**SIZES, **DECODER))).save_pretrained(tmp_path / "source")
    convert(str(tmp_path / "source"), "native", tmp_path / "ours")
    (tmp_path / "evil_words.py").write_text("print('evil was here')")
    monkeypatch.syspath_prepend(tmp_path)
    stored = content(tmp_path / "ours")
    config = yaml.safe_load(stored["mae_vlm"]["config"])
    config["model"]["init_args"]["text"] = {"class_path": "evil_words.Tower", "init_args": {}}
    stored["mae_vlm"]["config"] = yaml.safe_dump(config)
    torch.save(stored, tmp_path / "evil.ckpt")
    words = ["--model.weights", tmp_path / "evil.ckpt", "--trainer.default_root_dir", tmp_path / "runs"]
    assert in_process("fit", *SMALL, *STILL, *CONTRAST, *words) == 1
    out, told = capsys.readouterr()
    assert "names the class evil_words.Tower, which is no part of mae_vlm" in told and "evil was here" not in out


def test_a_run_that_went_on_resumes_without_what_it_began_with(tmp_path):
    shaken(ViTModel(ViTConfig(**SIZES))).save_pretrained(tmp_path / "source")
    root = ["--trainer.default_root_dir", tmp_path / "runs"]
    run = started(tmp_path / "runs", tmp_path / "source", still=["--trainer.max_steps", "1", "--pictures.count", "2"])
    shutil.rmtree(tmp_path / "source")
    assert in_process("fit", *SMALL, "--trainer.max_steps", "2", "--ckpt_path", run, *root) == 0
    assert content(sorted((tmp_path / "runs").glob("*/version_*"))[-1])["global_step"] == 2
