"""Each objective's pull at the shared encoder: what is told is the step's own gradient, taken apart, and telling it changes nothing."""

from __future__ import annotations

import contextlib
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import yaml
from tiny_runs import DATA, ENCODER, MACHINE, curve, differing_weights, in_new_process, in_process

from mae_vlm.callbacks import gradients
from mae_vlm.callbacks.gradients import Gradients, compared, objective_gradients
from mae_vlm.encoders.vit import Vit
from mae_vlm.learners.optim import AdamW
from mae_vlm.learners.pretrain import Pretrainer
from mae_vlm.objectives.base import Objective
from mae_vlm.objectives.pixels import Pixels
from mae_vlm.tokens.masking import RandomMask
from mae_vlm.types import Batch, Loss

SMALL = partial(Pixels, width=16, depth=1, heads=2)
RAW = partial(SMALL, normalise=False)


def a_learner(**objectives) -> Pretrainer:
    torch.manual_seed(0)
    return Pretrainer(Vit(width=32, depth=2, heads=4, patch=4, image_size=16), RandomMask(0.75), objectives, AdamW(base_lr=1e-3))


def a_batch(count: int = 4) -> Batch:
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(images, torch.arange(count), torch.ones(count, dtype=torch.bool), torch.full((count,), -1), [f"{i}" for i in range(count)])


def measured(learner: Pretrainer, count: int = 4, scale: float = 1.0) -> dict[str, torch.Tensor]:
    return objective_gradients(learner, a_batch(count), contextlib.nullcontext, scale)


class Moody(Objective):
    """Draws from every generator and keeps a count: all that a measurement must leave as it was."""

    def __init__(self, towers, weight=1.0):
        super().__init__(towers, weight)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, features, batch):
        self.seen += 1
        return Loss((features.masked.tokens_BTD * torch.rand(())).square().mean())


def test_the_parts_add_up_to_the_gradient_of_the_step():
    learner = a_learner(pixels=SMALL, raw=partial(RAW, weight=0.3))
    parts = measured(learner)
    learner.training_step(a_batch(), 0).backward()
    whole = torch.cat([weight.grad.flatten() for weight in learner.towers.parameters() if weight.requires_grad])
    torch.testing.assert_close(parts["pixels"] + parts["raw"], whole, rtol=1e-4, atol=1e-7)
    assert min(part.norm() for part in parts.values()) > 1e-3


@pytest.mark.parametrize("weight", [0.0, 0.25, 3.0])
def test_the_gradient_at_weight_w_is_w_times_the_gradient_at_weight_one(weight):
    one, other = measured(a_learner(pixels=SMALL, raw=RAW)), measured(a_learner(pixels=SMALL, raw=partial(RAW, weight=weight)))
    torch.testing.assert_close(other["raw"], weight * one["raw"])
    torch.testing.assert_close(other["pixels"], one["pixels"])
    torch.testing.assert_close(compared(other)["raw"]["norm"], weight * compared(one)["raw"]["norm"])


def test_shares_sum_to_one_and_an_objective_twice_agrees_with_itself():
    terms = compared(measured(a_learner(raw=RAW, pixels=SMALL)))
    assert sum(found["share"] for found in terms.values()).item() == pytest.approx(1)
    learner = a_learner(first=SMALL, second=SMALL)
    learner.objectives["second"].load_state_dict(learner.objectives["first"].state_dict())
    for found in compared(measured(learner)).values():
        assert found["share"].item() == pytest.approx(0.5) and found["cosine"].item() == pytest.approx(1, abs=1e-5)


def test_cosine_is_with_the_sum_of_the_others():
    terms = compared({"a": torch.tensor([2.0, 0.0]), "b": torch.tensor([-1.0, 1.0]), "c": torch.tensor([0.0, -1.0])})
    assert [round(terms[name]["cosine"].item(), 4) for name in "abc"] == [-1.0, -0.9487, -0.7071]
    assert compared({"a": torch.ones(2), "b": torch.zeros(2)})["b"]["cosine"] == 0
    assert "cosine" not in compared({"a": torch.ones(2)})["a"]


def test_measuring_leaves_no_trace():
    learner = a_learner(pixels=SMALL, moody=Moody)
    learner.training_step(a_batch(), 0).backward()
    grads = [weight.grad.clone() for weight in learner.parameters() if weight.grad is not None]
    state, before = torch.get_rng_state(), {name: value.clone() for name, value in learner.state_dict().items()}
    first, second = measured(learner), measured(learner)
    assert torch.equal(first["moody"], second["moody"]), "it draws the same numbers each time"
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in learner.state_dict().items())
    after = [weight.grad for weight in learner.parameters() if weight.grad is not None]
    assert len(grads) == len(after) and all(torch.equal(one, other) for one, other in zip(grads, after, strict=True))


def test_a_loss_that_is_scaled_on_its_way_back_gives_the_same_gradient():
    torch.testing.assert_close(measured(a_learner(pixels=SMALL), scale=1024.0)["pixels"], measured(a_learner(pixels=SMALL))["pixels"])


def steps_measured(callback, objectives, log_every, steps):
    learner = SimpleNamespace(objectives=dict.fromkeys(range(objectives)))
    found = []
    for step in range(1, steps + 1):
        connector = SimpleNamespace(should_update_logs=step % log_every == 0)
        if callback._due(SimpleNamespace(_logger_connector=connector, log_every_n_steps=log_every, global_step=step - 1), learner):
            found.append(step)
    return found


@pytest.mark.parametrize(
    "every, objectives, log_every, found",
    [
        (None, 2, 10, [10, 200, 400, 600]),
        (None, 5, 10, [10, 500]),
        (100, 2, 30, [30, 120, 240, 360, 480, 600]),
        (1, 1, 200, [200, 400, 600]),
    ],
)
def test_intervals_are_log_steps_and_take_one_percent_of_the_time_unless_asked(every, objectives, log_every, found):
    assert steps_measured(Gradients(every), objectives, log_every, 600) == found


@pytest.mark.parametrize("every, names, active", [(None, 1, False), (5, 1, True), (None, 2, True)])
def test_one_objective_alone_is_measured_only_when_asked(every, names, active):
    callback = Gradients(every)
    callback.on_train_start(SimpleNamespace(is_global_zero=True), a_learner(**dict.fromkeys(["pixels", "raw"][:names], SMALL)))
    assert callback._active == active


def test_other_processes_gradients_are_averaged_before_they_are_compared(monkeypatch):
    learner, logged = a_learner(pixels=SMALL, raw=RAW), {}
    alone = compared(measured(learner))
    callback = Gradients(1)
    trainer = SimpleNamespace(
        _logger_connector=SimpleNamespace(should_update_logs=True), log_every_n_steps=1, global_step=0, world_size=4, is_global_zero=True,
        loggers=[SimpleNamespace(log_metrics=lambda metrics, step: logged.update(metrics))],
        precision_plugin=SimpleNamespace(forward_context=contextlib.nullcontext),
    )  # fmt: skip
    monkeypatch.setattr(gradients.dist, "all_reduce", lambda gradient: gradient.mul_(2))  # two of the four have the same, two have zeros
    callback.on_train_start(trainer, learner)
    callback.on_train_batch_start(trainer, learner, a_batch(), 0)
    callback.on_before_optimizer_step(trainer, learner, None)
    assert logged["gradients/raw/norm"] == pytest.approx(0.5 * alone["raw"]["norm"].item())
    assert logged["gradients/raw/cosine"] == pytest.approx(alone["raw"]["cosine"].item())


@pytest.mark.parametrize("options", [{"every_n_steps": 0}, {"pictures": 0}])
def test_numbers_below_one_are_refused(options):
    with pytest.raises(ValueError, match="allowed is 1 or more"):
        Gradients(**options)


@pytest.fixture(scope="module")
def two_objectives(tmp_path_factory):
    """Words of a run on two objectives."""
    small = {"class_path": "mae_vlm.objectives.pixels.Pixels", "init_args": {"width": 16, "depth": 1}}
    raw = {**small, "init_args": small["init_args"] | {"normalise": False, "weight": 0.5}}
    file = tmp_path_factory.mktemp("config") / "two.yaml"
    base = {"class_path": "mae_vlm.learners.pretrain.Pretrainer", "init_args": {"objectives": {"pixels": small, "raw": raw}}}
    parts = {"encoder": "vit.Vit", "masking": "masking.RandomMask", "optimizer": "optim.AdamW"}
    rooms = {"encoder": "encoders", "masking": "tokens", "optimizer": "learners"}
    base["init_args"] |= {name: {"class_path": f"mae_vlm.{rooms[name]}.{end}"} for name, end in parts.items()}
    file.write_text(yaml.safe_dump({"model": base}))
    length = ["--trainer.max_steps", 4, "--trainer.log_every_n_steps", 2, "--pictures.count", 1]
    return ["--config", file, "--name", "two", *MACHINE, *DATA, *ENCODER, *length]


@pytest.fixture(scope="module")
def run(two_objectives, tmp_path_factory):
    place = tmp_path_factory.mktemp("measured")
    assert in_process("fit", *two_objectives, "--gradients.every_n_steps", 2, "--trainer.default_root_dir", place) == 0
    return place / "two" / "version_0"


def test_a_run_tells_norm_share_and_cosine_of_each_objective(run):
    for name in ("pixels", "raw"):
        shares, cosines = curve(run, f"gradients/{name}/share"), curve(run, f"gradients/{name}/cosine")
        assert list(shares) == [1, 3] and all(0 < share < 1 for share in shares.values())
        assert all(-1 <= cosine <= 1 for cosine in cosines.values())
        assert all(norm > 0 for norm in curve(run, f"gradients/{name}/norm").values())


def test_a_run_that_is_measured_ends_with_the_same_weights(run, two_objectives, tmp_path):
    assert in_process("fit", *two_objectives, "--gradients.every_n_steps", 1000, "--trainer.default_root_dir", tmp_path) == 0
    other = tmp_path / "two" / "version_0"
    assert differing_weights(run, other) == []
    assert list(curve(other, "gradients/raw/norm")) == [1], "the first log step, and none after it"


@pytest.mark.slow
def test_two_processes_measure_what_one_does(run, two_objectives, tmp_path):
    words = ["--gradients.every_n_steps", 2, "--trainer.devices", 2, "--trainer.strategy", "ddp", "--trainer.default_root_dir", tmp_path]
    done = in_new_process("fit", *two_objectives, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for term in ("norm", "share", "cosine"):
        for name in ("pixels", "raw"):
            tag = f"gradients/{name}/{term}"
            assert curve(tmp_path / "two" / "version_0", tag) == pytest.approx(curve(run, tag), rel=1e-3, abs=1e-4)
