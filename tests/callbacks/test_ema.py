"""The averaged weights: what they are, and that keeping and validating them leaves the run alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny_runs import TINY, content, curve, differing_weights, in_process
from torch import nn

import mae_vlm
from mae_vlm.callbacks.ema import Ema, decay_at
from mae_vlm.convert.averaged import averaged

RUN = [*TINY, "--trainer.max_steps", "8", "--trainer.log_every_n_steps", "1", "--trainer.val_check_interval", "4"]


def started(module, decay=0.9, **options):
    ema = Ema(decay, **options)
    ema.on_train_start(SimpleNamespace(global_step=0), module)
    return ema


def after_step(ema, module, step, skipped=None):
    trainer = SimpleNamespace(global_step=step, optimizers=[SimpleNamespace(found_inf=skipped)])
    ema.on_train_batch_end(trainer, module, None, None, 0)


def moved(module, seed):
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn(weight.shape, generator=drawn))


def test_the_average_is_that_of_the_definition():
    module = nn.Linear(3, 2)
    ema = started(module, 0.7)
    expected = module.weight.detach().double()
    for step in range(1, 31):
        moved(module, step)
        after_step(ema, module, step)
        decay = decay_at(step, 0.7)
        expected = decay * expected + (1 - decay) * module.weight.detach().double()
    torch.testing.assert_close(ema.weights["weight"].double(), expected, atol=1e-6, rtol=0)
    assert [decay_at(step, 0.7) for step in (1, 5, 1000)] == [2 / 11, 6 / 15, 0.7]


def test_a_step_counts_once_however_many_batches_it_has():
    module = nn.Linear(3, 2)
    ema = started(module)
    moved(module, 1)
    after_step(ema, module, 1)
    once = ema.weights["weight"].clone()
    after_step(ema, module, 1)
    assert torch.equal(ema.weights["weight"], once) and ema.steps == 1


def test_looking_every_few_steps_looks_back_as_far():
    module = nn.Linear(3, 2)
    often, seldom = started(module, 0.9), started(module, 0.9, every_n_steps=4)
    moved(module, 1)
    for step in range(1, 201):
        after_step(often, module, step)
        after_step(seldom, module, step)
        if step == 100:
            moved(module, 2)  # so many steps later both have forgotten as much
        if step == 120:
            ways = [(ema.weights["weight"] - module.weight).norm() for ema in (often, seldom)]
    torch.testing.assert_close(*ways, rtol=1e-3, atol=0)


def test_a_skipped_step_leaves_the_average_as_it_is():
    module = nn.Linear(3, 2)
    ema = started(module)
    moved(module, 1)
    before = ema.weights["weight"].clone()
    after_step(ema, module, 1, skipped=torch.tensor(1.0))
    assert torch.equal(ema.weights["weight"], before)
    after_step(ema, module, 2, skipped=torch.tensor(0.0))
    assert not torch.equal(ema.weights["weight"], before)


def test_a_rollback_takes_the_average_back_too():
    module = nn.Linear(3, 2)
    ema = started(module)
    moved(module, 1)
    after_step(ema, module, 1)
    kept = {"steps": ema.steps, "weights": {name: value.clone() for name, value in ema.weights.items()}}
    moved(module, 2)
    after_step(ema, module, 2)
    ema.go_back(kept)
    assert ema.steps == 1 and all(torch.equal(value, kept["weights"][name]) for name, value in ema.weights.items())
    after_step(ema, module, 3)
    assert not torch.equal(ema.weights["weight"], kept["weights"]["weight"])  # what the checkpoint gave is not written to


def test_small_steps_of_half_precision_weights_are_not_rounded_away():
    module = nn.Linear(1, 1, bias=False).bfloat16()
    module.weight.data.fill_(1.0)
    ema = started(module, 0.999)
    ema.steps = 100_000
    module.weight.data.fill_(1.0078125)  # the next number
    after_step(ema, module, 1)
    assert ema.weights["weight"].dtype == torch.float32 and 1 < ema.weights["weight"].item() < 1.0001


def test_only_what_is_trained_is_averaged_and_buffers_stay_the_runs_own():
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    module[0].bias.requires_grad_(False)
    ema = started(module)
    assert set(ema.weights) == {"0.weight", "1.weight", "1.bias"}
    state = module.state_dict()
    found = averaged({"callbacks": {"Ema": ema.state_dict()}, "state_dict": state}, "x")
    assert found.keys() == state.keys() and found["1.num_batches_tracked"].dtype == torch.int64


def test_the_runs_own_weights_come_back_bit_by_bit_also_after_an_error():
    module = nn.Linear(3, 2)
    ema = started(module)
    moved(module, 1)
    own, averages = module.weight.detach().clone(), ema.weights["weight"].clone()
    with pytest.raises(RuntimeError, match="in between"), ema.swapped(module):
        assert torch.equal(module.weight, averages)
        raise RuntimeError("in between")
    assert torch.equal(module.weight, own) and torch.equal(ema.weights["weight"], averages)


def test_the_host_never_waits_for_the_device_in_a_step():
    module = nn.Linear(3, 2, device="meta")  # has shapes, but no numbers: to ask for one is an error
    ema = started(module)
    after_step(ema, module, 1, skipped=torch.zeros((), device="meta"))
    assert ema.steps == 1


def test_weights_in_pieces_are_refused():
    module = nn.Linear(3, 2)
    module.weight.full_tensor = None  # as a DTensor has it
    with pytest.raises(ValueError, match=r"ema\.decay needs the whole weights on every process"):
        started(module)


@pytest.mark.parametrize("options", [{"decay": 1.0}, {"decay": 0.0}, {"decay": 0.9, "every_n_steps": 0}])
def test_a_decay_or_an_interval_out_of_range_is_refused(options):
    with pytest.raises(ValueError, match=r"ema\.(decay|every_n_steps) .* given, allowed is"):
        Ema(**options)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for name, more in (("plain", []), ("averaging", ["--ema.decay", "0.95"])):
        assert in_process("fit", *RUN, *more, "--name", name, "--trainer.default_root_dir", root) == 0
    return root / "plain" / "version_0", root / "averaging" / "version_0"


def test_averaging_leaves_the_run_bit_by_bit_as_it_was(runs):
    plain, averaging = runs
    assert differing_weights(plain, averaging) == []
    for tag in ("train/loss", "val/loss", "val/pixels/masked_mse"):
        assert curve(plain, tag) == curve(averaging, tag)
    pictures = sorted(path.name for path in (plain / "pictures").glob("*.png"))
    assert pictures and all((plain / "pictures" / name).read_bytes() == (averaging / "pictures" / name).read_bytes() for name in pictures)
    assert curve(plain, "ema/loss") == {}


def test_every_validation_has_the_averaged_weights_beside_the_raw_ones(runs):
    _, run = runs
    raw, mean = curve(run, "val/loss"), curve(run, "ema/loss")
    assert raw.keys() == mean.keys() and mean[0] == raw[0]  # the average begins with the run's own weights
    assert all(mean[step] != raw[step] for step in mean if step)
    assert curve(run, "ema/pixels/masked_mse").keys() == mean.keys()


def test_the_averaged_loss_is_that_of_the_averaged_weights(runs, tmp_path, capsys):
    _, run = runs
    whole = content(run)
    whole["state_dict"] = averaged(whole, run)
    torch.save(whole, tmp_path / "averaged.ckpt")
    assert in_process("validate", "--ckpt_path", tmp_path / "averaged.ckpt", *TINY[:6], "--trainer.default_root_dir", tmp_path) == 0
    (told,) = [line for line in capsys.readouterr().out.splitlines() if "val/loss" in line][-1:]
    assert float(told.split()[-2]) == pytest.approx(list(curve(run, "ema/loss").values())[-1], abs=1e-6)


def test_a_resumed_run_goes_on_averaging_without_being_told(runs, tmp_path):
    import shutil

    run = shutil.copytree(runs[1], tmp_path / "averaging" / "version_0")
    words = ["--ckpt_path", "last", "--name", "averaging", "--trainer.default_root_dir", tmp_path, "--trainer.max_steps", "10"]
    assert in_process("fit", *words, *TINY[:6]) == 0
    kept = content(run)["callbacks"]["Ema"]
    assert kept["steps"] == 10 and kept["decay"] == 0.95 and max(curve(run, "ema/loss")) == 10


def test_a_run_that_averaged_nothing_says_so(runs):
    with pytest.raises(ValueError, match=r"holds no averaged weights; train with --ema\.decay"):
        averaged(content(runs[0]), runs[0])


def test_the_averaged_encoder_is_loaded_and_converted_on_demand(runs, tmp_path):
    _, run = runs
    picture = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    raw, mean = mae_vlm.load(run).encode(picture), mae_vlm.load(run, weights="ema").encode(picture)
    assert not torch.equal(raw, mean)
    assert in_process("convert", run, "--to", "timm", "--weights", "ema", "--out", tmp_path / "timm") == 0
    from safetensors.torch import load_file

    written, kept = load_file(tmp_path / "timm" / "model.safetensors"), content(run)["callbacks"]["Ema"]["weights"]
    assert all(torch.equal(written[name], kept[f"towers.image.vit.{name}"]) for name in written if f"towers.image.vit.{name}" in kept)
