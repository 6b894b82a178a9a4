"""What a step does to the weights: told at log steps, and telling where it does nothing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mae_vlm.callbacks.updates import Updates, _sample, spread


class Learner(nn.Module):
    def __init__(self, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 8)).to(dtype)
        self.frozen = nn.Parameter(torch.ones(10, dtype=dtype), requires_grad=False)
        self.logged = {}

    def log(self, name, value, **_):
        self.logged[name] = value

    def backward(self):
        weight = next(self.parameters())
        self.layers(torch.randn(32, 64, generator=torch.Generator().manual_seed(1)).to(weight.dtype)).float().square().mean().backward()


def trainer(logs=True, first=True):
    return SimpleNamespace(is_global_zero=first, _logger_connector=SimpleNamespace(should_update_logs=logs))


def a_step(learner, rate, callback=None, logs=True, first=True):
    callback = callback or Updates()
    learner.backward()
    optimizer = torch.optim.AdamW(learner.parameters(), lr=rate)
    callback.on_before_optimizer_step(trainer(logs, first), learner, optimizer)
    optimizer.step()
    callback.on_train_batch_end(trainer(logs, first), learner, None, None, 0)
    return {name: float(value) for name, value in learner.logged.items()}


def test_update_ratio_is_the_norm_of_the_change_over_the_norm_before():
    learner = Learner()
    before = torch.cat([w.detach().flatten() for w in learner.layers.parameters()])
    told = a_step(learner, 1e-3)
    after = torch.cat([w.detach().flatten() for w in learner.layers.parameters()])
    assert told["optimizer/update_ratio"] == pytest.approx(((after - before).norm() / before.norm()).item(), rel=1e-4)
    assert told["optimizer/unchanged_fraction"] < 0.01


def test_a_rate_of_zero_leaves_every_weight_as_it_was():
    assert a_step(Learner(), 0.0) == {"optimizer/update_ratio": 0.0, "optimizer/unchanged_fraction": 1.0}


@pytest.mark.parametrize("rate, least, most", [(1e-6, 0.9, 1.0), (1e-1, 0.0, 0.05)])
def test_bf16_weights_whose_updates_round_to_nothing_are_told(rate, least, most):
    assert least <= a_step(Learner(torch.bfloat16), rate)["optimizer/unchanged_fraction"] <= most
    assert a_step(Learner(), rate)["optimizer/unchanged_fraction"] < 0.05, "in float32 they move"


def test_entries_without_a_gradient_are_not_held_against_the_step():
    learner = Learner()
    mask = torch.zeros(8, 1)
    mask[0] = 1
    learner.layers[2].weight.register_hook(lambda gradient: gradient * mask)
    assert a_step(learner, 1e-3)["optimizer/unchanged_fraction"] < 0.01


def test_a_step_that_the_optimizer_was_told_to_skip_is_unchanged():
    learner, callback = Learner(), Updates()
    learner.backward()
    optimizer = torch.optim.AdamW(learner.parameters(), lr=1.0, fused=True)
    optimizer.found_inf = torch.ones(())
    callback.on_before_optimizer_step(trainer(), learner, optimizer)
    optimizer.step()
    callback.on_train_batch_end(trainer(), learner, None, None, 0)
    assert learner.logged["optimizer/unchanged_fraction"] == 1


class Reads(TorchDispatchMode):
    """Counts what makes the host wait for the device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*arguments, **(named or {}))


def test_between_log_steps_nothing_is_looked_at_and_at_them_nothing_is_waited_for():
    learner, callback = Learner(), Updates()
    learner.backward()
    for logs in (False, True):
        with Reads() as reads:
            callback.on_before_optimizer_step(trainer(logs), learner, None)
            assert bool(callback._taken) == logs
            callback.on_train_batch_end(trainer(logs), learner, None, None, 0)
        assert reads.count == 0
        assert bool(learner.logged) == logs
    with Reads() as reads:
        learner.logged["optimizer/update_ratio"].item()
    assert reads.count == 1, "this is how waiting would have been seen"


def test_other_processes_leave_it_to_the_first():
    assert a_step(Learner(), 1e-3, first=False) == {}


def test_between_the_micro_steps_of_a_step_nothing_is_told():
    learner, callback = Learner(), Updates()
    callback.on_train_batch_end(trainer(), learner, None, None, 0)
    assert learner.logged == {}


def test_the_sample_is_bounded_and_reaches_the_last_tensor():
    assert spread(list(range(1000)), 64)[0] == 0 and spread(list(range(1000)), 64)[-1] == 999 and len(spread(list(range(1000)), 64)) == 64
    assert spread([1, 2, 3], 64) == [1, 2, 3]
    assert _sample(torch.zeros(3000, 3001)).numel() <= 4096 < 3 * _sample(torch.zeros(4097)).numel()
    assert torch.equal(_sample(torch.arange(5.0)), torch.arange(5.0))
