"""Promises of mae_vlm.convert.conversion: there and back bit by bit, and other libraries open it with the same numbers."""

from __future__ import annotations

import os

import pytest
import timm
import torch
import yaml
from paper_mae import PaperMae, PaperVit, shaken
from test_sources import DECODER, IMAGES, NOISE, SIZES, reconstruction
from tiny_runs import in_process
from transformers import ViTConfig, ViTMAEConfig, ViTMAEForPreTraining, ViTModel

from mae_vlm.convert import foreign, native, native_run
from mae_vlm.convert.conversion import convert
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.heads.classify import Classify
from mae_vlm.objectives.pixels import Pixels
from mae_vlm.types import CHECKPOINT_FORMAT, CHECKPOINT_KEY

ENCODER = {"width": 32, "depth": 2, "heads": 4, "patch": 4, "image_size": 16, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
PIXELS = {"width": 32, "depth": 1, "heads": 1, "normalise": False}


def run_of_ours(folder, **options):
    """A checkpoint as a pretraining leaves it, with every weight moved."""
    towers = Towers(Vit(**ENCODER | options))
    module = shaken(torch.nn.ModuleDict({"towers": towers, "objectives": torch.nn.ModuleDict({"pixels": Pixels(towers, **PIXELS)})}))
    parts = {"objectives": {"pixels": {"class_path": "mae_vlm.objectives.pixels.Pixels", "init_args": PIXELS}}}
    return write(folder, parts, module.state_dict(), ENCODER | options)


def classifier_of_ours(folder):
    towers = Towers(Vit(**ENCODER))
    module = shaken(
        torch.nn.ModuleDict({"towers": towers, "heads": torch.nn.ModuleDict({"what": Classify(towers, classes=["cat", "dog", "owl"])})})
    )
    head = {"class_path": "mae_vlm.heads.classify.Classify", "init_args": {"classes": ["cat", "dog", "owl"]}}
    return write(folder, {"heads": {"what": head}}, module.state_dict(), ENCODER)


def write(folder, parts, state, encoder):
    config = {"model": {"init_args": {"encoder": {"class_path": "mae_vlm.encoders.vit.Vit", "init_args": encoder}, **parts}}}
    folder.mkdir(exist_ok=True)
    torch.save({CHECKPOINT_KEY: {"format": CHECKPOINT_FORMAT, "config": yaml.safe_dump(config)}, "state_dict": state}, folder / "made.ckpt")
    return folder / "made.ckpt"


def source_of(to, out):
    return out / "model.pth" if to == "facebook" else out


def same(left, right):
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


pytestmark = pytest.mark.filterwarnings("ignore:.*checksums are lost")


@pytest.mark.parametrize("to", ["timm", "transformers", "facebook", "native"])
def test_a_run_of_ours_comes_back_bit_by_bit(tmp_path, to):
    run = run_of_ours(tmp_path / "run")
    convert(str(run), to, tmp_path / "there")
    convert(str(source_of(to, tmp_path / "there")), "native", tmp_path / "back")
    first, last = native_run.read(run), native_run.read(tmp_path / "back")
    same(first.weights, last.weights)
    if to != "timm":  # which has no decoder
        same(first.decoder.weights, last.decoder.weights)
        assert first.decoder.options == last.decoder.options
    ours, theirs = native.read_encoder(run), native.read_encoder(tmp_path / "back")
    assert torch.equal(ours.full(IMAGES).tokens_BTD, theirs.full(IMAGES).tokens_BTD)
    torch.testing.assert_close(theirs.mean, ours.mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(theirs.std, ours.std, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["vitmae", "vit", "paper", "timm"])
def test_another_format_comes_back_bit_by_bit_through_ours(tmp_path, kind):
    if kind in ("vitmae", "vit"):
        model = ViTMAEForPreTraining(ViTMAEConfig(**SIZES, **DECODER)) if kind == "vitmae" else ViTModel(ViTConfig(**SIZES))
        shaken(model).save_pretrained(tmp_path / "source")
        source, to = tmp_path / "source", "transformers"
    elif kind == "paper":
        source, to = tmp_path / "source.pth", "facebook"
        torch.save({"model": shaken(PaperMae()).state_dict()}, source)
    else:
        source, to = tmp_path / "source", "timm"
        arguments = {"img_size": 16, "patch_size": 4, "embed_dim": 64, "depth": 1, "num_heads": 2}
        model = shaken(timm.create_model("vit_small_patch16_dinov3", num_classes=0, **arguments))
        timm.models.save_for_hf(model, source, model_args=arguments, safe_serialization=True)
    convert(str(source), "native", tmp_path / "ours")
    made = convert(str(tmp_path / "ours"), to, tmp_path / "back")
    first, last = foreign.read(source), foreign.read(source_of(to, tmp_path / "back"))
    same(first.weights, last.weights)
    assert torch.equal(first.build().full(IMAGES).tokens_BTD, last.build().full(IMAGES).tokens_BTD)
    if first.decoder is not None:
        same(first.decoder.weights, last.decoder.weights)
    assert not any("adds" in line for line in made.told if kind in ("paper", "timm"))


@torch.no_grad()
def test_transformers_opens_ours_with_the_same_reconstruction(tmp_path):
    run = run_of_ours(tmp_path / "run")
    convert(str(run), "transformers", tmp_path / "there")
    model, info = ViTMAEForPreTraining.from_pretrained(tmp_path / "there", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    found = native_run.read(run)
    assert model.config.layer_norm_eps == 1e-6 and model.config.norm_pix_loss is False
    theirs = model.eval()(IMAGES, noise=NOISE).logits
    assert theirs.std() > 0.1
    torch.testing.assert_close(reconstruction(found, found.build()), theirs, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_papers_code_opens_ours_with_the_same_reconstruction(tmp_path):
    run = run_of_ours(tmp_path / "run", width=128, heads=2)
    convert(str(run), "facebook", tmp_path / "there")
    model = PaperMae(decoder=32)
    model.load_state_dict(torch.load(tmp_path / "there" / "model.pth", weights_only=True)["model"], strict=True)
    found = native_run.read(run)
    torch.testing.assert_close(reconstruction(found, found.build()), model.eval().predicted(IMAGES, NOISE, 0.75), rtol=0, atol=1e-5)


@pytest.mark.parametrize("to", ["timm", "facebook", "native"])
@torch.no_grad()
def test_a_classifier_goes_out_with_the_same_logits_and_comes_back(tmp_path, to):
    run = classifier_of_ours(tmp_path / "run")
    found = native_run.read(run)
    head = Classify(Towers(found.build()), classes=3).eval()
    head.load_state_dict(found.classifier.weights)
    logits = head.linear(head.norm(found.build().full(IMAGES).unnormed_BND.mean(1)))
    convert(str(run), to, tmp_path / "there", classifier=True)
    if to == "timm":
        theirs = timm.create_model(f"local-dir:{tmp_path / 'there'}", pretrained=True).eval()(IMAGES)
        torch.testing.assert_close(theirs, logits, rtol=0, atol=1e-5)
    if to == "facebook":  # strict: their class has no norm where it has fc_norm
        model = PaperVit(width=32, classes=3)
        model.blocks[0].attn.heads = model.blocks[1].attn.heads = 4
        model.load_state_dict(torch.load(tmp_path / "there" / "model.pth", weights_only=True)["model"], strict=True)
        torch.testing.assert_close(model.eval().logits(IMAGES), logits, rtol=0, atol=1e-5)
    back = native_run.read(source_of(to, tmp_path / "there"))
    same(found.classifier.weights, back.classifier.weights)
    assert back.classifier.classes == (3 if to == "facebook" else ["cat", "dog", "owl"])


def test_an_epsilon_that_the_target_cannot_hold_is_named_with_the_deviation_it_makes(tmp_path):
    shaken(ViTMAEForPreTraining(ViTMAEConfig(**SIZES, **DECODER, layer_norm_eps=1e-3))).save_pretrained(tmp_path / "source")
    for to in ("timm", "facebook"):
        (line,) = [one for one in convert(str(tmp_path / "source"), to, tmp_path / to).told if "features of noise" in one]
        assert "adds 1e-06 in its norms, the source 0.001, which it cannot hold" in line
        ours, theirs = native.read_encoder(tmp_path / "source"), native.read_encoder(source_of(to, tmp_path / to))
        noise = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            measured = (ours.full(noise).tokens_BTD - theirs.full(noise).tokens_BTD).abs().max()
        assert f"by up to {measured:.1e}" in line and measured > 1e-4
    told = convert(str(tmp_path / "source"), "native", tmp_path / "ours").told
    assert any("our pixel decoder adds 1e-06" in line and "predicted pixels" in line for line in told)
    assert not any("features" in line for line in told)


def test_an_epsilon_that_the_target_holds_is_carried(tmp_path):
    shaken(ViTModel(ViTConfig(**SIZES, layer_norm_eps=1e-5))).save_pretrained(tmp_path / "source")
    told = convert(str(tmp_path / "source"), "timm", tmp_path / "timm").told
    assert not any("adds" in line for line in told)
    model = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(model.forward_features(IMAGES), native.read_encoder(tmp_path / "source").full(IMAGES).tokens_BTD)


# -- the command


def convert_by_command(*words):
    return in_process("convert", *words)


def test_what_is_written_looked_at_and_left_behind_is_said(tmp_path, capsys):
    ViTMAEForPreTraining(ViTMAEConfig(**SIZES, **DECODER, layer_norm_eps=1e-6)).save_pretrained(tmp_path / "source")
    assert convert_by_command(tmp_path / "source", "--to", "timm", "--out", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "transformers ViTMAEForPreTraining" in said and "left behind: its decoder" in said
    assert f"wrote {tmp_path / 'out' / 'model.safetensors'}" in said and "timm.create_model" in said


def test_nothing_that_is_there_is_written_over_without_force(tmp_path, capsys):
    run, out = run_of_ours(tmp_path / "run"), tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("mine")
    (out / "notes.txt").write_text("mine too")
    assert convert_by_command(run, "--to", "timm", "--out", out) == 1
    assert "holds config.json, notes.txt; choose another --out, or say --force" in capsys.readouterr().err
    assert (out / "config.json").read_text() == "mine" and len(list(out.iterdir())) == 2
    assert convert_by_command(run, "--to", "timm", "--out", out, "--force") == 0
    assert (out / "config.json").read_text() != "mine" and (out / "notes.txt").read_text() == "mine too"


def test_a_run_is_never_written_over(tmp_path, capsys):
    run = run_of_ours(tmp_path / "run")
    assert convert_by_command(run, "--to", "native", "--out", tmp_path / "there") == 0
    assert convert_by_command(run, "--to", "native", "--out", tmp_path / "there", "--force") == 1
    assert "is a run already, which is never written over" in capsys.readouterr().err


@pytest.mark.parametrize("to", ["transformers", "facebook"])
@pytest.mark.parametrize("options", [{"class_tokens": 3}, {"image_size": (16, 24)}, {"class_tokens": 0}], ids=str)
def test_an_encoder_that_the_target_has_no_class_for_is_refused_and_nothing_written(tmp_path, capsys, to, options):
    run = run_of_ours(tmp_path / "run", **options)
    assert convert_by_command(run, "--to", to, "--out", tmp_path / "out") == 1
    assert "take --to timm" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_without_permission_one_line_is_told(tmp_path, capsys):
    run, shut = run_of_ours(tmp_path / "run"), tmp_path / "shut"
    shut.mkdir(mode=0o500)
    assert convert_by_command(run, "--to", "timm", "--out", shut / "out") == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_permission_refused_by_the_system_is_one_line_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    run = run_of_ours(tmp_path / "run")

    def refuse(*arguments, **named):
        raise PermissionError(13, "Permission denied", "out")

    monkeypatch.setattr("mae_vlm.convert.timm.save_file", refuse)
    assert convert_by_command(run, "--to", "timm", "--out", tmp_path / "out") == 1
    assert "Permission denied" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_what_is_nowhere_and_a_classifier_that_is_none_are_told_in_a_line(tmp_path, capsys):
    assert convert_by_command(tmp_path / "none", "--to", "timm", "--out", tmp_path / "out") == 1
    assert "no checkpoint there" in capsys.readouterr().err
    assert convert_by_command(run_of_ours(tmp_path / "run"), "--to", "timm", "--out", tmp_path / "out", "--classifier") == 1
    assert "has no classifier of classes as its only head" in capsys.readouterr().err


@pytest.mark.parametrize(
    "there", [["config.json", "model.safetensors"], ["config.yaml", "config.json", "model.safetensors"]], ids=["theirs", "ours"]
)
def test_a_name_on_the_hub_is_read_as_what_it_holds(tmp_path, monkeypatch, there):
    ViTModel(ViTConfig(**SIZES)).save_pretrained(tmp_path)

    def fetched(word, *files):
        assert word == "hf://org/name"
        for file in files:
            if file not in there:
                raise ValueError(f"the hub did not give {file} of {word}: there is none, it has no {file}, or your token may not read it")
        return {file: tmp_path / file for file in files}

    monkeypatch.setattr(foreign, "fetched", fetched)
    found = foreign.read("hf://org/name")
    assert (found is None) == ("config.yaml" in there)
    assert found is None or found.kind == "transformers ViTModel"


@pytest.mark.parametrize("to", ["timm", "onnx"])
def test_an_encoder_of_somebody_elses_code_is_not_imported(tmp_path, capsys, monkeypatch, to):
    (tmp_path / "evil_module.py").write_text("raise SystemExit('evil was here')")
    monkeypatch.syspath_prepend(tmp_path)
    config = {"model": {"init_args": {"encoder": {"class_path": "evil_module.Vit", "init_args": {}}}}}
    content = {CHECKPOINT_KEY: {"format": CHECKPOINT_FORMAT, "config": yaml.safe_dump(config)}, "state_dict": {}}
    torch.save(content, tmp_path / "made.ckpt")
    assert convert_by_command(tmp_path / "made.ckpt", "--to", to, "--out", tmp_path / "out") == 1
    assert "encoder evil_module.Vit is not part of mae_vlm" in capsys.readouterr().err
