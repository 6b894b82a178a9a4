"""Promises of mae_vlm.learners.lars."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mae_vlm.learners.lars import Lars


def a_model() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"one": nn.Linear(4, 3), "two": nn.Linear(3, 2)})


def gradients(model: nn.Module, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.grad = torch.randn(weight.shape, generator=draw)


def test_steps_are_those_of_the_papers_formula():
    """You et al. 2017, algorithm 1, without decay: a matrix moves by trust * |w| / |g| of its gradient, a bias by the gradient itself."""
    model = a_model()
    expected = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    moved = {name: torch.zeros_like(weight) for name, weight in expected.items()}
    optimizer, _ = Lars(base_lr=0.1, warmup=0.0).build(model, 1024, 0)
    for step in range(3):
        gradients(model, step)
        for name, weight in model.named_parameters():
            local = 1e-3 * expected[name].norm() / weight.grad.norm() if weight.ndim > 1 else 1.0
            moved[name] = 0.9 * moved[name] + local * weight.grad
            expected[name] = expected[name] - 0.4 * moved[name]
        optimizer.step()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.detach(), expected[name])


def test_without_trust_it_is_gradient_descent_with_momentum():
    ours, theirs = a_model(), a_model()
    optimizer, _ = Lars(base_lr=0.1, trust=None, warmup=0.0).build(ours, 256, 0)
    plain = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)
    for step in range(3):
        for model, rule in ((ours, optimizer), (theirs, plain)):
            gradients(model, step)
            rule.step()
    for left, right in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(left, right)


@pytest.mark.parametrize("trust", [1e-3, None])
@pytest.mark.parametrize("bad_step", [0, 1])
def test_a_step_that_is_told_to_be_bad_leaves_weights_and_momenta_as_they_are(trust, bad_step):
    ours, theirs = a_model(), a_model()
    rules = [Lars(base_lr=0.1, trust=trust, warmup=0.0).build(model, 256, 0)[0] for model in (ours, theirs)]
    for step in range(3):
        for model, rule in zip((ours, theirs), rules, strict=True):
            bad = step == bad_step
            if bad and model is theirs:
                continue

            def closure(model=model, rule=rule, bad=bad, step=step):  # Lightning tells within it, as the gradients are there
                gradients(model, step)
                if bad:
                    model["one"].weight.grad[0, 0] = float("nan")
                rule.found_inf = torch.tensor(float(bad))
                return torch.zeros(())

            rule.step(closure)
    for left, right in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(left, right)


def test_the_rate_goes_by_the_images_of_a_step_and_comes_down_to_zero():
    optimizer, schedule = Lars().build(a_model(), 16_384, 90)
    rates = []
    for _ in range(90):
        rates.append(max(group["lr"] for group in optimizer.param_groups))
        optimizer.step()
        schedule.step()
    assert max(rates) == rates[8] == pytest.approx(6.4) and rates[0] == pytest.approx(6.4 / 9) and rates[-1] < 0.01


def test_a_part_with_a_rate_of_its_own_learns_at_that():
    model = a_model()
    model["two"].lr_scale = 0.25
    optimizer, _ = Lars(base_lr=1.0).build(model, 256, 0)
    rates = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    assert [rates[id(weight)] for weight in model.parameters()] == [1.0, 1.0, 0.25, 0.25]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4


@pytest.mark.parametrize(
    "options, told",
    [
        ({"base_lr": -1.0}, "base_lr -1.0"),
        ({"momentum": 1.0}, "momentum 1.0"),
        ({"trust": 0.0}, "trust 0.0 given"),
        ({"warmup": 1.0}, "warmup 1.0"),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        Lars(**options)
