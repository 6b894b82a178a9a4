"""What the guard marks, what it lets pass, and that no step waits for it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from tiny_runs import TINY, content, curve, in_process
from torch import nn

from mae_vlm.callbacks.guard import Guard

ODD = ["--trainer.max_steps", "5", "--trainer.log_every_n_steps", "3", "--trainer.limit_val_batches", "1", "--probes.pictures", "0"]
BAD = float("nan")


class Learner(nn.Module):
    """One weight on a device, with the loss terms of a step."""

    def __init__(self, device="cpu"):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, device=device))
        self.device = self.weight.device
        self.terms, self.logged = {}, {}

    def log(self, name, value, **more):
        self.logged[name] = value


class Run:
    """A run of given losses through the hooks of a guard, one optimizer step each."""

    def __init__(self, folder, guard=None, every=1, device="cpu"):
        self.guard, self.module = guard or Guard(), Learner(device)
        self.guard.folder, self.folder = folder, folder
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=1e-3, fused=device == "cpu")
        place = {"global_rank": 0, "is_global_zero": True, "world_size": 1}
        self.trainer = SimpleNamespace(global_step=0, log_every_n_steps=every, callbacks=[], **place)

    def steps(self, losses):
        for loss in losses:
            self.step(torch.full((), float(loss), device=self.module.weight.device))
        return self

    def step(self, loss):
        guard, trainer, module = self.guard, self.trainer, self.module
        batch = SimpleNamespace(ids=[f"picture-{trainer.global_step}"])
        guard.on_train_batch_start(trainer, module, batch, 0)
        total = (module.weight * 1e-3).sum() + loss
        guard.on_before_backward(trainer, module, total)
        total.backward()
        module.terms = {"train/loss": [total.detach()], "train/pixels/masked_mse": [total.detach()]}
        guard.on_before_optimizer_step(trainer, module, self.optimizer)
        if self.module.weight.device.type == "cpu":
            self.optimizer.step()
        self.optimizer.zero_grad()
        trainer.global_step += 1
        guard.on_train_batch_end(trainer, module, None, batch, 0)

    def report(self):
        file = self.folder / "bad_steps.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def falling(seed, steps=600, tail=False):
    """Losses of a healthy run: they fall, with noise; ``tail``: that of small batches, of which some are much harder."""
    drawn = torch.Generator().manual_seed(seed)
    noise = torch.randn(steps, generator=drawn)
    if tail:
        noise = noise / (torch.randn(steps, 6, generator=drawn).square().mean(1)).sqrt()  # Student's t with 6 degrees of freedom
    return 0.5 + 0.5 * torch.exp(-torch.arange(steps) / 80) + 0.02 * noise


def test_a_spike_is_marked_with_its_samples_and_the_step_is_taken(tmp_path):
    losses = falling(0)
    losses[300] = 3.0
    run = Run(tmp_path).steps(losses)
    (line,) = run.report()
    assert (line["kind"], line["step"], line["ids"]) == ("spike", 300, ["picture-300"])
    assert line["terms"]["train/loss"] == pytest.approx(3.0, abs=0.01) and line["lr"] == 1e-3
    assert run.module.logged == {"guard/skipped_steps": 0.0, "guard/spikes": 1.0}
    assert run.optimizer.state[run.module.weight]["step"] == len(losses)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tail", [False, True], ids=["even", "with hard batches"])
def test_healthy_noise_is_no_spike(tmp_path, seed, tail):
    run = Run(tmp_path).steps(falling(seed, tail=tail))
    assert run.report() == [] and run.module.logged["guard/spikes"] == 0


def test_a_constant_loss_is_no_reason_to_mark_the_next(tmp_path):
    assert Run(tmp_path).steps([0.5] * 100 + [0.5001] * 100).report() == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_skips_the_step_even_where_its_gradient_is(tmp_path, bad):
    run = Run(tmp_path).steps([0.5, 0.5])
    before = run.module.weight.detach().clone()
    run.steps([bad])
    assert torch.equal(run.module.weight, before) and run.optimizer.state[run.module.weight]["step"] == 2
    (line,) = run.report()
    assert line["kind"] == "not finite" and line["step"] == 2 and line["terms"]["train/loss"] == str(bad)
    run.steps([0.5])
    assert not torch.equal(run.module.weight, before) and run.module.logged["guard/skipped_steps"] == 1


def test_a_finite_loss_has_the_gradient_it_would_have_without_a_guard(tmp_path):
    run, weight = Run(tmp_path), torch.ones(3, requires_grad=True)
    loss = ((run.module.weight * torch.tensor([0.1, 0.7, 1 / 3])) ** 2).sum()
    run.guard.on_before_backward(run.trainer, run.module, loss)
    loss.backward()
    ((weight * torch.tensor([0.1, 0.7, 1 / 3])) ** 2).sum().backward()
    assert torch.equal(run.module.weight.grad, weight.grad)


def test_a_step_between_log_steps_never_waits_for_the_device(tmp_path):
    """Tensors on the meta device have shapes but no numbers: whatever would make the host wait for one is an error there."""
    run = Run(tmp_path, every=10, device="meta").steps([0.5] * 9)
    assert run.module.logged == {}
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        run.steps([0.5])  # the tenth reads the flags of all ten


def test_the_flags_of_all_steps_are_read_in_two_transfers(tmp_path, monkeypatch):
    run, read = Run(tmp_path, every=10), []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: (read.append(tuple(self.shape)), tolist(self))[1])
    monkeypatch.setattr(run.module, "device", torch.device("cuda"))  # where it looks at log steps only
    losses = falling(0, 100)
    losses[57] = 5.0
    run.steps(losses)
    assert read == [(10,)] * 20
    assert [line["step"] for line in run.report()] == [57]


def test_a_resumed_guard_marks_what_it_would_have_marked(tmp_path):
    losses = falling(1, 200)
    losses[120], losses[150] = 3.0, float("nan")
    whole = Run(tmp_path / "whole", every=1).steps(losses)
    first = Run(tmp_path / "cut").steps(losses[:100])
    again = Run(tmp_path / "cut")
    for part in ("guard", "module", "optimizer"):
        getattr(again, part).load_state_dict(getattr(first, part).state_dict())
    again.trainer.global_step = 100
    again.guard.on_train_start(again.trainer, again.module)
    again.steps(losses[100:])
    assert [(line["step"], line["kind"]) for line in again.report()] == [(120, "spike"), (150, "not finite")]
    assert again.guard.state_dict() == whole.guard.state_dict()


def test_steps_not_looked_at_yet_are_in_the_checkpoint(tmp_path, monkeypatch):
    run = Run(tmp_path, every=10)
    monkeypatch.setattr(run.module, "device", torch.device("cuda"))
    run.steps([0.5] * 4 + [float("nan")])
    assert run.report() == []
    again = Run(tmp_path)
    again.guard.load_state_dict(run.guard.state_dict())
    again.trainer.global_step = 5
    again.guard.on_train_start(again.trainer, again.module)
    again.steps([0.5])
    assert [(line["step"], line["ids"]) for line in again.report()] == [(4, ["picture-4"])]


def as_on_a_gpu(patch):
    """Look at log steps only, in a run through the command line."""
    patch.setattr(Guard, "_every", lambda self, trainer, module: trainer.log_every_n_steps)


def test_a_run_of_a_length_between_two_looks_ends_with_its_checkpoint_and_its_counts(tmp_path, monkeypatch):
    as_on_a_gpu(monkeypatch)
    assert in_process("fit", *TINY, *ODD, "--trainer.default_root_dir", tmp_path) == 0
    run = tmp_path / "default" / "version_0"
    assert content(run)["global_step"] == 5
    assert curve(run, "guard/skipped_steps") == {2: 0, 4: 0} == curve(run, "guard/spikes")


@pytest.fixture
def fleeing(tmp_path, monkeypatch):
    """A run that looks at every tenth step, and the steps from before which it took checkpoints."""
    run, fled = Run(tmp_path, every=10), []
    monkeypatch.setattr(run.module, "device", torch.device("cuda"))
    monkeypatch.setattr(run.guard, "_last_good", lambda trainer, first: fled.append(first) or "a checkpoint")
    nothing = dict.fromkeys(("load_model_state_dict", "load_optimizer_state_dict"), lambda *given, **named: None)
    run.trainer.strategy = SimpleNamespace(broadcast=lambda value: value, load_checkpoint=lambda *_, **__: {"callbacks": {}}, **nothing)
    return run, fled


def losses_with(bad, steps):
    return [BAD if step in bad else 0.5 for step in range(steps)]


def test_one_look_goes_back_once_and_writes_every_bad_step_down(fleeing, capsys):
    run, fled = fleeing
    run.steps(losses_with([0, 2, 3, 4, 6, 7, 8, 9], 20))
    assert fled == [2] and run.guard.rolled_back == 1
    assert [line["step"] for line in run.report()] == [0, 2, 3, 4, 6, 7, 8, 9]
    assert run.module.logged["guard/skipped_steps"] == 8
    assert "steps 2 to 4 had no finite gradient" in capsys.readouterr().out


@pytest.mark.parametrize("good", [[], [12]], ids=["none was good since", "one was good since"])
def test_a_checkpoint_from_within_a_stretch_counts_only_after_a_good_step(fleeing, good):
    run, fled = fleeing
    run.steps(losses_with({*range(5, 17)} - {*good}, 20))
    assert fled == ([5, 13] if good else [5, 5])


def test_a_resumed_run_knows_of_the_stretch(fleeing):
    run, fled = fleeing
    run.steps(losses_with(range(5, 10), 10))
    state = run.guard.state_dict()
    run.guard.load_state_dict(state)
    run.steps(losses_with(range(3), 10))
    assert fled == [5, 5]


def test_what_a_rollback_may_need_is_told(fleeing):
    run, _ = fleeing
    told = []
    for loss in losses_with([5, 6, 7, 8, 9], 20):
        run.steps([loss])
        told.append(run.guard.needed)
    assert told == [0] * 9 + [5] * 10 + [None]
