"""The CIFAR comparison compares like with like."""

import json

import pytest
import torch
import torch.nn.functional as F

import tools.finetune
from mae_vlm.tokens.masking import RandomMask
from tools import cifar_pictures, probe
from tools.cifar_pictures import Pictures, crop_and_flip
from tools.cifar_worth import finetune_kind
from tools.finetune import Finetuning, classifier, finetune
from tools.mae_race import OurMae, Recipe, build, pretrain
from tools.worth_table import markdown

SMALL = {"steps": 3, "batch": 4, "decoder": "1x32", "width": 32, "depth": 2, "heads": 2}


def pictures(count: int) -> Pictures:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return Pictures(images, torch.arange(count) % 10)


def test_batched_crop_is_what_antialiased_bicubic_resampling_gives():
    smooth = F.interpolate(torch.rand(64, 3, 6, 6) * 255, (32, 32), mode="bicubic").clamp(0, 255).to(torch.uint8)
    keys = cifar_pictures.keys(0, 0, torch.arange(64))
    cropped = crop_and_flip(smooth, keys, 0.2)
    tops, lefts, heights, widths = (part.long().tolist() for part in cifar_pictures._windows(keys, 32, 32, 0.2))
    flips = cifar_pictures.uniform(keys, 1, stream=8)[:, 0] < 0.5
    for i in range(64):
        window = smooth[i : i + 1, :, tops[i] : tops[i] + heights[i], lefts[i] : lefts[i] + widths[i]]
        expected = F.interpolate(window.float(), (32, 32), mode="bicubic", antialias=True)[0].round().clamp(0, 255)
        expected = expected.flip(2) if flips[i] else expected
        torch.testing.assert_close(cropped[i].float(), expected, atol=1, rtol=0)
    assert 0.2 < flips.float().mean() < 0.8 and min(heights) < 20


def test_the_peer_sees_the_same_masks_and_reaches_the_same_loss_with_the_same_weights():
    pytest.importorskip("transformers")
    from tools.peer_vitmae import PeerMae, encoder_state

    recipe = Recipe(**SMALL)
    ours = build(recipe).eval()
    peer = PeerMae(recipe.encoder(), RandomMask(0.75), 1, 32).eval()
    assert peer.model.vit.embeddings.position_embeddings.abs().sum() > 0
    for token in (peer.model.vit.embeddings.cls_token, peer.model.decoder.mask_token):
        assert 0 < token.std() < 0.1
    ours.towers.image.load_state_dict(encoder_state(peer.model))
    state, theirs = ours.pixels.decoder.state_dict(), peer.model.decoder.state_dict()
    for name in state:
        if not name.startswith("decoder_blocks"):
            state[name] = theirs[name]
    pairs = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.o_proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    for kind in ("weight", "bias"):
        for leaf, name in pairs.items():
            state[f"decoder_blocks.0.{leaf}.{kind}"] = theirs[f"decoder_layers.0.{name}.{kind}"]
        parts = [theirs[f"decoder_layers.0.attention.{part}_proj.{kind}"] for part in "qkv"]
        state[f"decoder_blocks.0.attn.qkv.{kind}"] = torch.cat(parts)
    ours.pixels.decoder.load_state_dict(state)
    batch = pictures(8).batch(torch.arange(8), cifar_pictures.keys(0, 0, torch.arange(8)), 0.2)
    with torch.no_grad():
        torch.testing.assert_close(ours(batch), peer(batch), atol=1e-5, rtol=0)


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("tools.mae_race._SAVE_EVERY", -1.0)
    data, scratch = pictures(12), tmp_path / "run.scratch"
    _, whole = pretrain(Recipe(**SMALL), data, data, scratch, print)

    def killed(self, batch):
        if killed.left == 0:
            raise KeyboardInterrupt
        killed.left -= 1
        return forward(self, batch)

    killed.left, forward = 2, OurMae.forward
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(OurMae, "forward", killed)
        pretrain(Recipe(**SMALL), data, data, scratch, print)
    assert scratch.exists()
    _, resumed = pretrain(Recipe(**SMALL), data, data, scratch, print)
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_a_killed_fine_tune_goes_on_to_the_same_loss(tmp_path, monkeypatch):
    monkeypatch.setattr("tools.finetune._KEEP", 2)
    data, setting, kept = pictures(40), Finetuning(epochs=3, batch=20, per_class=4), tmp_path / "run.kept"
    encoder = Recipe(**SMALL).encoder()
    whole = finetune(encoder, False, data, data, setting)

    def killed(*args):
        if args[3] == 5:
            raise KeyboardInterrupt
        return step(*args)

    step = tools.finetune._step
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("tools.finetune._step", killed)
        finetune(encoder, False, data, data, setting, kept)
    assert kept.exists()
    torch.rand(7)
    with monkeypatch.context() as patch:
        patch.setattr("tools.finetune._step", lambda *args: pytest.fail("starts afresh") if args[3] < 4 else step(*args))
        resumed = finetune(encoder, False, data, data, setting, kept)
    assert resumed["train_loss"] == whole["train_loss"] and resumed["steps"] == whole["steps"] == 6


def test_probe_separates_what_is_linearly_separable_and_chooses_no_decay_on_validation():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % 10
    features = F.one_hot(labels, 10).float() + 0.05 * torch.randn(600, 10, generator=generator)
    result = probe.linear_probe(features[:400], labels[:400], features[400:], labels[400:])
    assert result["probe"] == 100


def test_classifier_takes_the_blocks_and_leaves_the_final_norm():
    encoder = Recipe(**SMALL).encoder()
    with torch.no_grad():
        encoder.vit.norm.weight.fill_(7.0)
    tuned, scratch = classifier(encoder, True), classifier(encoder, False)
    name = "blocks.0.attn.qkv.weight"
    assert torch.equal(tuned.get_parameter(name), encoder.vit.get_parameter(name))
    assert not torch.equal(scratch.get_parameter(name), encoder.vit.get_parameter(name))
    assert torch.equal(scratch.get_parameter("pos_embed"), encoder.vit.pos_embed)
    assert torch.equal(tuned.get_parameter("fc_norm.weight"), torch.ones(32))


def test_table_shows_mean_and_spread_over_seeds(tmp_path):
    for seed, score in ((0, 50.0), (1, 52.0)):
        recipe = {"method": "ours", "seed": seed, "decoder": "2x64", "steps": 560, "base_lr": 1.5e-3}
        unit = {"kind": "probe", "recipe": recipe, "result": {"probe": score, "knn": 40.0}}
        (tmp_path / f"{seed}.probe.json").write_text(json.dumps(unit))
    assert "| ours, decoder 2x64, 560 steps, lr 0.0015 | 2 |  |  |  | 51.0 ± 1.4 | 40.0 ± 0.0 |" in markdown(tmp_path)


def test_file_names_tell_settings_apart():
    assert Recipe().slug == "ours-seed0-560steps-d2x64"
    assert Recipe(base_lr=3e-3).slug != Recipe().slug
    assert finetune_kind(Finetuning(multiple=4)) == "finetune-lr0.001-x4"
