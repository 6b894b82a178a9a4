"""Promises of mae_vlm.learners.optim."""

import pytest
import torch
from torch import nn

from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.learners.optim import AdamW, default_base_lr, parameter_groups
from mae_vlm.objectives.pixels import Pixels


def house(**more) -> nn.ModuleDict:
    towers = Towers(Vit(**{"width": 32, "depth": 2, "heads": 4, "patch": 4, "image_size": 16, "class_tokens": 3} | more))
    return nn.ModuleDict({"towers": towers, "pixels": Pixels(towers, width=16, depth=1, heads=2)})


MODELS = [
    {"positions": "sincos"},
    {"positions": "learned"},
    {"name": "vit_small_patch16_rope_mixed_ape_224", "image_size": 64, "positions": "learned"},
    {"name": "vit_small_patch16_dinov3", "image_size": 64},
]


@pytest.mark.parametrize("more", MODELS, ids=str)
def test_every_trainable_weight_is_in_exactly_one_group_and_no_frozen_one(more):
    model = house(**more)
    grouped = [id(p) for group in parameter_groups(model, 0.05) for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize("more", MODELS, ids=str)
def test_decay_spares_biases_norms_positions_and_tokens_and_nothing_else(more):
    model = house(**more)
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, spared = ({names[id(p)] for p in group["params"]} for group in parameter_groups(model, 0.05))
    matrices = {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert decayed == matrices
    assert any("mask_token" in name for name in spared)
    assert any("cls_token" in name for name in spared)
    assert [group["weight_decay"] for group in parameter_groups(model, 0.05)] == [0.05, 0.0]


@pytest.mark.parametrize(("images", "expected"), [(256, 1e-3), (512, 2e-3), (64, 2.5e-4), (4096, 1.6e-2)])
def test_rate_is_base_lr_times_images_per_step_over_256(images, expected):
    optimizer, schedule = AdamW(base_lr=1e-3, warmup=0.1).build(house(), images, steps=100)
    assert all(group["initial_lr"] == pytest.approx(expected) for group in optimizer.param_groups)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(expected / 10)
    assert max(rates) == pytest.approx(expected)
    assert rates[54] == pytest.approx(expected * 0.5, rel=0.04)
    assert rates[-1] < 0.001 * expected


def test_betas_and_decay_are_the_papers():
    optimizer, _ = AdamW(base_lr=1e-3).build(house(), 256, 100)
    assert optimizer.defaults["betas"] == (0.9, 0.95)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]


def test_a_step_moves_every_trainable_weight_and_no_fixed_position():
    model = house()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer, _ = AdamW(base_lr=1e-2).build(model, 256, 10)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (not parameter.requires_grad), name


def test_the_default_rate_falls_with_the_length_of_the_run_between_its_two_ends():
    assert [default_base_lr(steps) for steps in (100, 10_000, 100_000, 10**6, 0)] == pytest.approx([1.5e-3, 1.5e-3, 1.5e-4, 1.5e-4, 1.5e-4])
    assert default_base_lr(31_623) == pytest.approx((1.5e-3 * 1.5e-4) ** 0.5, rel=1e-3)


@pytest.mark.parametrize("options", [{"base_lr": -1.0}, {"warmup": 1.0}, {"warmup": -0.1}, {"floor": 1.5}, {"weight_decay": -1.0}], ids=str)
def test_values_out_of_range_are_refused(options):
    name, value = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"{name} {value}"):
        AdamW(**options)
