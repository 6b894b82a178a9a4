"""Promises of mae_vlm.encoders.lora."""

from __future__ import annotations

import sys
from functools import partial

import pytest
import torch

from mae_vlm.encoders.lora import Lora, adapt, is_adapter, merged
from mae_vlm.encoders.vit import Vit
from mae_vlm.encoders.weights import fill
from mae_vlm.heads.classify import Classify
from mae_vlm.learners.finetune import Finetuner
from mae_vlm.learners.optim import AdamW

SIZES = {"width": 32, "depth": 2, "heads": 4, "patch": 8, "image_size": 16}


def an_encoder(seed: int = 0, **more) -> Vit:
    torch.manual_seed(seed)
    encoder = Vit(**SIZES | more).eval()
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    return encoder


def adapted(lora: Lora, **more) -> Vit:
    """As :func:`an_encoder`, with adapters that have learned something."""
    encoder = an_encoder(**more)
    adapt(encoder, lora)
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if is_adapter(name):
                weight.normal_(std=0.1)
    return encoder


def features(encoder: Vit) -> torch.Tensor:
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return encoder.full(images).tokens_BTD


def test_an_adapted_encoder_begins_as_it_was_and_trains_its_adapters_alone():
    plain, encoder = an_encoder(), an_encoder()
    adapt(encoder, Lora(rank=3))
    assert torch.equal(features(encoder), features(plain))
    trained = {name: tuple(weight.shape) for name, weight in encoder.named_parameters() if weight.requires_grad}
    sizes = {"qkv": (96, 32), "proj": (32, 32)}
    assert trained == {
        f"vit.blocks.{block}.attn.{layer}.lora_{part}.default.weight": (3, sizes[layer][1]) if part == "A" else (sizes[layer][0], 3)
        for block in (0, 1) for layer in sizes for part in "AB"
    }  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("lora", [Lora(), Lora(rank=2, alpha=3.0, targets=("qkv", "proj", "fc1", "fc2"), dropout=0.5)], ids=["few", "all"])
def test_merged_adapters_give_the_same_features_under_plain_names(lora):
    encoder, plain = adapted(lora), an_encoder(seed=1)
    state = merged(encoder.state_dict(), lora)
    assert state.keys() == plain.state_dict().keys()
    plain.load_state_dict(state)
    torch.testing.assert_close(features(plain), features(encoder), atol=1e-5, rtol=0)
    assert (features(plain) - features(an_encoder())).abs().max() > 0.1, "the adapters count"


@torch.no_grad()
def test_plain_weights_fill_an_adapted_encoder_and_leave_its_adapters():
    encoder, other = adapted(Lora()), an_encoder(seed=1, image_size=32)
    before = {name: value.clone() for name, value in encoder.state_dict().items() if is_adapter(name)}
    filled = fill(encoder, other.state_dict(), (4, 4))
    assert not filled.missing and not filled.unexpected and filled.resampled
    state = encoder.state_dict()
    assert all(torch.equal(state[name], value) for name, value in before.items()) and len(before) == 8
    assert torch.equal(state["vit.blocks.1.attn.qkv.base_layer.weight"], other.vit.blocks[1].attn.qkv.weight)


@torch.no_grad()
def test_an_encoder_without_adapters_is_merged_as_it_is():
    state = an_encoder().state_dict()
    assert all(value is state[name] for name, value in merged(state, Lora()).items())


def test_adapters_go_into_rotary_encoders_where_they_are_not_passed_by():
    encoder = Vit(name="vit_small_patch16_dinov3", image_size=32)
    adapt(encoder, Lora(rank=1))
    assert sum(weight.requires_grad for weight in encoder.parameters()) == 4 * len(encoder.vit.blocks)
    with torch.device("meta"):
        other = Vit(name="eva02_tiny_patch14_224", image_size=28)
    with pytest.raises(ValueError, match=r"takes the weight of qkv past its layer and any adapter; leave qkv out of lora\.targets"):
        adapt(other, Lora())


@pytest.mark.parametrize(
    "options, told",
    [
        ({"rank": 0}, "rank 0 must be 1 or more"),
        ({"alpha": 0.0}, "alpha 0.0 above 0"),
        ({"dropout": 1.0}, "dropout 1.0 a share below 1"),
        ({"targets": ()}, "targets name a layer"),
        ({"targets": ("query",)}, "query is no linear layer of the encoder's blocks; there are fc1, fc2, proj, qkv"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        adapt(an_encoder(), Lora(**options))


@pytest.mark.parametrize("harm", ["half", "size"])
def test_adapters_that_do_not_fit_are_refused(harm):
    state = adapted(Lora()).state_dict()
    name = "vit.blocks.0.attn.qkv.lora_A.default.weight"
    state[name] = state[name][:, :-1]
    if harm == "half":
        del state[name]
    with pytest.raises(ValueError, match=r"the adapter vit\.blocks\.0\.attn\.qkv\.lora_B\.default\.weight does not fit the weight"):
        merged(state, Lora())


def test_without_peft_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"pip install 'mae_vlm\[lora\]'"):
        adapt(an_encoder(), Lora())


def a_finetuner(**more) -> Finetuner:
    return Finetuner(an_encoder(), {"classify": partial(Classify, classes=3)}, AdamW(base_lr=1e-3, layer_decay=0.5), **more)


def test_the_learner_trains_adapters_and_heads_at_the_rates_of_their_layers():
    learner = a_finetuner(lora=Lora(rank=2))
    names = {id(weight): name for name, weight in learner.named_parameters()}
    optimizer, _ = learner.optimizer.build(learner, 256, 10)
    scales = {names[id(weight)]: group["lr_scale"] for group in optimizer.param_groups for weight in group["params"]}
    assert {name for name in scales if name.startswith("towers")} == {name for name in names.values() if is_adapter(name)}
    assert {name for name in names.values() if name.startswith("heads")} <= scales.keys()
    rates = {name.split(".")[4]: scale for name, scale in scales.items() if is_adapter(name)}
    assert rates == {"0": 0.25, "1": 0.5} and scales["heads.classify.linear.weight"] == 1


def test_freezing_beside_adapters_is_refused():
    with pytest.raises(ValueError, match="freeze all given beside lora"):
        a_finetuner(lora=Lora(), freeze="all")
