"""Promises of mae_vlm.convert.foreign: what other libraries wrote gives their own numbers, and nothing of it is dropped in silence."""

from __future__ import annotations

import json
from argparse import Namespace

import pytest
import timm
import torch
from paper_mae import PaperMae, PaperVit, shaken
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTForImageClassification, ViTMAEConfig, ViTMAEForPreTraining, ViTMAEModel, ViTModel

import mae_vlm
from mae_vlm.convert import foreign
from mae_vlm.convert.deviation import pixels_of
from mae_vlm.convert.timm_vit import set_eps
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.tokens.masking import Mask
from mae_vlm.types import Batch

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 16, "patch_size": 4}
DECODER = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 2, "decoder_intermediate_size": 64}
IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
NOISE = torch.rand(2, 16, generator=torch.Generator().manual_seed(2))


class FromNoise(Mask):
    def scores(self, keys_B, space):
        return NOISE


def reconstruction(found, encoder, eps=1e-6):
    """What our decoder, as converted, predicts of the same pictures, of which the same patches are hidden."""
    pixels = pixels_of(found, encoder)
    set_eps(pixels.decoder, eps)
    features = Features(
        Towers(encoder), Batch(IMAGES, torch.arange(2), torch.ones(2, dtype=torch.bool), torch.full((2,), -1)), FromNoise(0.75)
    )
    features.images_BCHW = IMAGES  # they are normalised already
    return pixels.decoder(features.masked, features.masking)


def in_the_old_spelling(folder):
    return any("attention.attention.query" in name for name in load_file(folder / "model.safetensors"))


def respelled(folder, model):
    """The folder with the installed version's own names in its file, whatever save_pretrained writes."""
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors", metadata={"format": "pt"}
    )


@pytest.mark.parametrize("spelling", ["before", "installed"])
@torch.no_grad()
def test_a_vitmae_of_transformers_gives_its_features_and_its_reconstruction(tmp_path, spelling):
    model = shaken(ViTMAEForPreTraining(ViTMAEConfig(**SIZES, **DECODER, norm_pix_loss=True)))
    model.save_pretrained(tmp_path)
    if spelling == "installed":
        respelled(tmp_path, model)
    assert in_the_old_spelling(tmp_path) == (spelling == "before")
    found = foreign.read(tmp_path)
    encoder = found.build()
    assert found.unused == () and found.decoder.options["normalise"] and found.decoder.eps == 1e-12
    theirs = model(IMAGES, noise=NOISE)
    torch.testing.assert_close(reconstruction(found, encoder, eps=1e-12), theirs.logits, rtol=0, atol=1e-5)
    model.vit.config.mask_ratio = 0.0
    tokens_BTD = model.vit(IMAGES, noise=torch.arange(16.0).expand(2, -1)).last_hidden_state
    torch.testing.assert_close(encoder.full(IMAGES).tokens_BTD, tokens_BTD, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"qkv_bias": False}, {"hidden_act": "quick_gelu"}, {"layer_norm_eps": 1e-6}, {"layer_norm_eps": 1e-5}], ids=str
)
@pytest.mark.parametrize("kind", [ViTModel, ViTForImageClassification])
@torch.no_grad()
def test_a_vit_of_transformers_gives_its_features_and_names_what_is_left(tmp_path, kind, options):
    model = shaken(kind(ViTConfig(**SIZES, **options)))
    model.save_pretrained(tmp_path)
    found = foreign.read(tmp_path)
    body = model if kind is ViTModel else model.vit
    torch.testing.assert_close(found.build().full(IMAGES).tokens_BTD, body(IMAGES).last_hidden_state, rtol=0, atol=1e-5)
    assert set(found.unused) == (
        {"pooler.dense.weight", "pooler.dense.bias"} if kind is ViTModel else {"classifier.weight", "classifier.bias"}
    )
    assert any("2 weights of no use here" in line for line in found.told())


@torch.no_grad()
def test_an_encoder_alone_and_a_pickle_of_tensors_are_read(tmp_path):
    model = shaken(ViTMAEModel(ViTMAEConfig(**SIZES, mask_ratio=0.0)))
    model.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    expected = model(IMAGES, noise=torch.arange(16.0).expand(2, -1)).last_hidden_state
    torch.testing.assert_close(foreign.read(tmp_path).build().full(IMAGES).tokens_BTD, expected, rtol=0, atol=1e-5)


def saved(tmp_path, model, **beside):
    torch.save({"model": model.state_dict(), **beside}, tmp_path / "paper.pth")
    return tmp_path / "paper.pth"


@torch.no_grad()
def test_a_pth_of_the_papers_code_gives_its_features_and_its_reconstruction(tmp_path):
    model = shaken(PaperMae())
    beside = {"sizes": {"norm_pix_loss": False, "mask_ratio": 0.75}, "optimizer": {"state": {}}, "epoch": 3}
    found = foreign.read(saved(tmp_path, model, **beside))
    encoder = found.build()
    assert found.encoder["class_path"] == "mae_vlm.encoders.vit.Vit" and found.unused == ()
    assert found.decoder.options == {"width": 64, "depth": 1, "heads": 2, "normalise": False}
    torch.testing.assert_close(encoder.full(IMAGES).tokens_BTD, model.tokens(IMAGES), rtol=0, atol=1e-5)
    torch.testing.assert_close(reconstruction(found, encoder), model.predicted(IMAGES, NOISE, 0.75), rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_fine_tuned_pth_of_the_papers_code_gives_its_logits(tmp_path):
    model = shaken(PaperVit(classes=5))
    found = foreign.read(saved(tmp_path, model))
    unnormed = found.build().full(IMAGES).unnormed_BND
    head = found.classifier.weights
    normed = torch.nn.functional.layer_norm(unnormed.mean(1), (128,), head["norm.weight"], head["norm.bias"], 1e-6)
    logits = torch.nn.functional.linear(normed, head["linear.weight"], head["linear.bias"])
    torch.testing.assert_close(logits, model.logits(IMAGES), rtol=0, atol=1e-5)
    assert found.classifier.classes == 5 and found.decoder is None


def test_what_such_a_file_does_not_tell_is_said(tmp_path):
    told = foreign.read(saved(tmp_path, PaperMae())).told()
    assert any("2 heads of attention: the paper's at width 128" in line for line in told)
    assert any("does not tell whether its decoder predicts normalised pixels" in line for line in told)


TINY = {"embed_dim": 32, "depth": 2, "num_heads": 4, "patch_size": 4}
CASES = {
    "norms of 1e-5 and another activation": ("vit_base_patch16_clip_quickgelu_224", TINY),
    "layer scale, registers, no position of the class": (
        "vit_base_patch16_224", TINY | {"init_values": 0.1, "reg_tokens": 3, "no_embed_class": True},
    ),
    "DINOv3": ("vit_small_patch16_dinov3", {"embed_dim": 64, "depth": 2, "num_heads": 2, "patch_size": 4}),
    "DINOv3 with biases": ("vit_small_patch16_dinov3_qkvb", {"embed_dim": 64, "depth": 1, "num_heads": 2, "patch_size": 4}),
    "EVA02": ("eva02_tiny_patch14_224", {"embed_dim": 64, "depth": 1, "num_heads": 2, "patch_size": 4}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_a_folder_that_timm_wrote_gives_its_features(tmp_path, name):
    architecture, arguments = CASES[name]
    own = {"use_fc_norm": False} if architecture.startswith(("eva", "vit_small_patch16_dino")) else {}
    model = shaken(timm.create_model(architecture, pretrained=False, img_size=16, num_classes=7, **arguments, **own))
    timm.models.save_for_hf(model, tmp_path, model_args={"img_size": 16, **arguments, **own}, safe_serialization=True)
    found = foreign.read(tmp_path)
    assert found.kind == "timm" and set(found.unused) == {"head.weight", "head.bias"}
    torch.testing.assert_close(found.build().full(IMAGES).tokens_BTD, model.forward_features(IMAGES), rtol=0, atol=1e-5)


@torch.no_grad()
def test_timms_classifier_on_the_mean_of_the_patches_is_taken_along_with_its_labels(tmp_path):
    model = shaken(timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=4, depth=1, num_classes=2, global_pool="avg"))
    arguments = {"img_size": 16, "patch_size": 4, "depth": 1, "global_pool": "avg"}
    timm.models.save_for_hf(model, tmp_path, model_args=arguments, safe_serialization=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"label_names": ["cat", "dog"]}))
    found = foreign.read(tmp_path)
    assert found.classifier.classes == ["cat", "dog"] and found.unused == ()
    assert torch.equal(found.classifier.weights["linear.weight"], model.head.weight)


def test_load_takes_any_of_them_and_warns_of_what_is_left(tmp_path):
    ViTModel(ViTConfig(**SIZES)).save_pretrained(tmp_path)
    with pytest.warns(RuntimeWarning, match=r"2 weights of no use here: pooler\.dense\.bias, pooler\.dense\.weight"):
        embedder = mae_vlm.load(tmp_path)
    assert embedder.encode([torch.zeros(3, 20, 20, dtype=torch.uint8)]).shape == (1, 32)


# -- refused


class Evil:
    def __reduce__(self):
        return print, ("evil was here",)


def test_a_pickle_that_would_run_code_is_refused_and_named(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"paper\.pth is refused: it is a pickle that is not plain tensors: it names builtins\.print"):
        foreign.read(saved(tmp_path, PaperMae(), extra=Evil()))
    assert "evil" not in capsys.readouterr().out


def test_a_training_checkpoint_of_the_papers_code_holds_its_options_and_is_told_how_to_be_made_plain(tmp_path):
    file = saved(tmp_path, PaperMae(), args=Namespace(norm_pix_loss=True))
    with pytest.raises(ValueError, match=r"it names argparse\.Namespace; if you trust it, save its weights alone: torch\.save"):
        foreign.read(file)


@pytest.mark.parametrize("what", ["safetensors", "pth"])
def test_a_file_that_was_cut_short_is_refused_and_named(tmp_path, what):
    ViTModel(ViTConfig(**SIZES)).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors" if what == "safetensors" else saved(tmp_path, PaperMae())
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match=file.name):
        foreign.read(tmp_path if what == "safetensors" else file)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda state: state.pop("blocks.1.mlp.fc1.weight"), r"1 missing, such as vit\.blocks\.1\.mlp\.fc1\.weight"),
        (lambda state: state.update({"norm.weight": torch.zeros(9)}), r"1 of another shape, such as vit\.norm\.weight \[9\] for \[128\]"),
        (lambda state: state.update({"blocks.0.attn.gate": torch.zeros(9)}), r"1 unexpected, such as vit\.blocks\.0\.attn\.gate"),
    ],
    ids=["missing", "shape", "unexpected"],
)  # fmt: skip
def test_weights_of_another_architecture_are_refused_with_their_names(tmp_path, change, told):
    state = PaperMae().state_dict()
    change(state)
    torch.save({"model": state}, tmp_path / "paper.pth")
    with pytest.raises(ValueError, match=told):
        foreign.read(tmp_path / "paper.pth").build()


@pytest.mark.parametrize(
    "config",
    [{"architecture": "resnet50"}, {"model_type": "bert"}, {},
     {"architecture": "vit_tiny_patch16_224", "model_args": {"checkpoint_path": "/etc/passwd"}},
     {"architecture": "vit_tiny_patch16_224", "model_args": {"block_fn": {"a": 1}}}],
    ids=str,
)  # fmt: skip
def test_another_model_or_an_option_that_names_files_or_code_is_refused(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"resnet50|model types|checkpoint_path|block_fn"):
        foreign.read(tmp_path).build()


def test_a_pth_of_no_known_format_is_refused_and_told_what_is_known(tmp_path):
    torch.save({"weights": torch.zeros(2)}, tmp_path / "some.pth")
    with pytest.raises(ValueError, match=r"some\.pth is of no known format; known are a run of ours, a timm folder"):
        foreign.read(tmp_path / "some.pth")
